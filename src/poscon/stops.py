"""How a process ends when it is asked to: by Ctrl-C, or by SIGTERM, which schedulers send."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within it the first SIGTERM raises :class:`Terminated`, so that a command ends in order.

    A process of ``torchrun`` ends at once as before: the others would wait for it.
    """
    if not _in_main_thread() or "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Stop:
    """What a process was asked for while it must not be cut off.

    Attributes:
        asked: what to raise when there is time for it; None: nothing was asked for.
    """

    asked: type[KeyboardInterrupt] | None = None


@contextmanager
def stop_later() -> Iterator[Stop]:
    """Within it Ctrl-C and SIGTERM wait until the caller looks. A second Ctrl-C does not wait.

    In another thread than the main one, and in one of several processes of ``torchrun``, nothing
    is held back.

    Raises:
        KeyboardInterrupt: at the end, if the caller did not look again.
    """
    stop = Stop()
    if not _in_main_thread() or "TORCHELASTIC_RUN_ID" in os.environ:
        yield stop
        return

    def ask(number: int, _: FrameType | None) -> None:
        interrupted = number == signal.SIGINT
        stop.asked = KeyboardInterrupt if interrupted else Terminated
        signal.signal(number, before[signal.SIGINT] if interrupted else signal.SIG_IGN)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number in heard:
            signal.signal(number, before[number])
    if stop.asked is not None:
        raise stop.asked


def _in_main_thread() -> bool:
    """Whether this is the thread that gets signals."""
    return threading.current_thread() is threading.main_thread()
