"""Signals to this very process."""

import os
import signal

import pytest

from poscon.stops import Terminated, sigterm_interrupts, stop_later


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    for _ in range(100):  # Python calls handlers between two steps
        pass


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> None:
    """A process in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_sigterm_ends_a_command_in_order_and_a_second_one_lets_it_tidy_up() -> None:
    before, tidied = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with sigterm_interrupts():
            try:
                send(signal.SIGTERM)
                pytest.fail("went on")
            finally:
                send(signal.SIGTERM)
                tidied.append(True)

    with pytest.raises(Terminated):
        work()
    assert tidied
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_what_must_not_be_cut_off_is_not(number: int, error: type[BaseException]) -> None:
    before, done = signal.getsignal(number), []

    def work() -> None:
        with stop_later() as stop:
            done.append(stop.asked)
            send(number)
            done.append(stop.asked)

    with pytest.raises(error) as raised:
        work()
    assert done == [None, error]
    assert type(raised.value) is error
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_does_not_wait() -> None:
    def work() -> None:
        with stop_later():
            send(signal.SIGINT)
            send(signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_process_of_torchrun_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with sigterm_interrupts(), stop_later() as stop:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert stop.asked is None
