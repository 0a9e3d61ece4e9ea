"""Runs a command, and samples the memory and the open files of its process and all below it."""

import os
import pty
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """What was seen of a command.

    Attributes:
        code: exit code.
        seconds: how long it ran.
        peak: bytes, the largest sum of the resident memory of all of its processes.
        silence: seconds, the longest time without output on stderr.
        said: what it wrote on stderr.
        samples: seconds since the start, resident bytes and open files, at each sample.
    """

    code: int = 0
    seconds: float = 0.0
    peak: int = 0
    silence: float = 0.0
    said: str = ""
    samples: list[tuple[float, int, int]] = field(default_factory=list)


def watch(command: Sequence[str], *, terminal: bool = False, every: float = 0.05) -> Watched:
    """Run a command to its end.

    Args:
        command: program and arguments.
        terminal: whether its stderr is a terminal; otherwise it is a pipe, as for a log.
        every: seconds between two samples.
    """
    found = Watched()
    ours, theirs = pty.openpty() if terminal else os.pipe()
    begun = time.monotonic()
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        reader = threading.Thread(target=_listen, args=(ours, begun, found), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                resident, files = _tree(process.pid)
                found.samples.append((time.monotonic() - begun, resident, files))
                time.sleep(every)
        finally:
            process.kill()
        reader.join()
    found.code, found.seconds = process.returncode, time.monotonic() - begun
    found.peak = max(resident for _, resident, _ in found.samples)
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


def _tree(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process and all below it."""
    resident = files = 0
    todo = [process]
    while todo:
        folder = Path("/proc", str(todo.pop()))
        try:
            resident += int((folder / "statm").read_text().split()[1]) * PAGE
            files += len(os.listdir(folder / "fd"))
            for task in (folder / "task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return resident, files
