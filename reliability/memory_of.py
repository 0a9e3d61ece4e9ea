"""Runs a command, and samples the memory, the time and the open files of all of its processes."""

import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """The processes of a command at one moment.

    Attributes:
        at: seconds since 1970.
        resident: bytes of memory, of all of them together.
        files: open files, of all of them together.
        cpu: seconds that those which run now have computed.
    """

    at: float
    resident: int
    files: int
    cpu: float


@dataclass
class Watched:
    """What was seen of a command.

    Attributes:
        code: exit code.
        seconds: how long it ran.
        silence: seconds, the longest time without output on stderr.
        said: what it wrote there.
        samples: in the order of time.
    """

    code: int = 0
    seconds: float = 0.0
    silence: float = 0.0
    said: str = ""
    samples: list[Sample] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The largest resident memory in bytes."""
        return max((sample.resident for sample in self.samples), default=0)


def watch(
    command: Sequence[str],
    *,
    terminal: bool = False,
    every: float = 0.05,
    until: Callable[[], bool] = lambda: False,
) -> Watched:
    """Run a command to its end, or stop it.

    Args:
        command: program and arguments.
        terminal: whether its stderr is a terminal; otherwise it is a pipe, as for a log.
        every: seconds between two samples.
        until: whether it is to be stopped now, asked at each sample.
    """
    found = Watched()
    ours, theirs = pty.openpty() if terminal else os.pipe()
    begun = time.monotonic()
    with subprocess.Popen(
        command, stderr=theirs, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        os.close(theirs)
        listener = threading.Thread(target=_listen, args=(ours, begun, found), daemon=True)
        listener.start()
        try:
            while process.poll() is None:
                found.samples.append(_sample(process.pid))
                if until():
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
                time.sleep(every)
        finally:
            process.kill()
        listener.join(timeout=10)
    found.code, found.seconds = process.returncode, time.monotonic() - begun
    return found


def _listen(stream: int, begun: float, found: Watched) -> None:
    """Note what is said, and the longest silence."""
    last = begun
    with os.fdopen(stream, "rb", buffering=0) as file:
        while True:
            try:
                text = file.read(4096)
            except OSError:  # the end of a terminal
                text = b""
            now = time.monotonic()
            found.silence, last = max(found.silence, now - last), now
            if not text:
                return
            found.said += text.decode(errors="replace")


def _sample(process: int) -> Sample:
    """A process and all below it, now."""
    resident = files = 0
    cpu = 0.0
    todo = [process]
    while todo:
        folder = Path("/proc", str(todo.pop()))
        try:
            resident += int((folder / "statm").read_text().split()[1]) * PAGE
            files += len(os.listdir(folder / "fd"))
            user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
            cpu += (int(user) + int(system)) / TICKS
            for task in (folder / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return Sample(time.time(), resident, files, cpu)
