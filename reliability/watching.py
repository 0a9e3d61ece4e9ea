"""What a process and those that it starts hold while they work: memory, open files, threads."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PROCESSES = Path("/proc")
WARM_UP = 0.2
"""Share of the work after which nothing may grow any more."""


@dataclass(frozen=True)
class Sample:
    """What a process and its descendants hold at a moment.

    Attributes:
        done: how much of the work is done.
        memory: resident memory of all of them together, MB.
        files: open files.
        threads: threads.
        processes: how many of them there are.
        seconds: processor time of those that are there, seconds.
    """

    done: int
    memory: float
    files: int
    threads: int
    processes: int
    seconds: float


def family(process: int) -> list[int]:
    """A process and its descendants that are there. Empty if it has ended."""
    parents: dict[int, int] = {}
    for entry in PROCESSES.iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))) is not None:
            parents[int(entry.name)] = int(fields[1])
    found = [process] if process in parents else []
    for one in found:  # it grows while it is gone through
        found += [child for child, parent in parents.items() if parent == one]
    return found


def sample(process: int, done: int) -> Sample | None:
    """Look at a process and its descendants; None if it has ended."""
    memory = seconds = 0.0
    files = threads = processes = 0
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for one in family(process):
        fields = _stat(one)
        try:
            opened = len(os.listdir(PROCESSES / str(one) / "fd"))
        except OSError:  # it ended a moment ago
            continue
        if fields is None or fields[21] == "0":  # it is about to end, or waits to be looked at
            continue
        processes += 1
        files += opened
        seconds += (int(fields[11]) + int(fields[12])) / tick
        threads += int(fields[17])
        memory += int(fields[21]) * page / 1e6
    return Sample(done, memory, files, threads, processes, seconds) if processes else None


def _stat(process: int) -> list[str] | None:
    """The fields of ``/proc/N/stat`` from the third on (proc(5)); None if it has ended."""
    try:
        text = (PROCESSES / str(process) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before may hold anything


@dataclass
class Watched:
    """What came of a process that was watched.

    Attributes:
        samples: in their order.
        code: its exit code.
        left: processes that it started and that are still there after its end.
        errors: what it wrote to stderr.
    """

    samples: list[Sample] = field(default_factory=list)
    code: int = 0
    left: list[int] = field(default_factory=list)
    errors: str = ""


def watch(
    command: Sequence[object],
    done: Callable[[], int],
    *,
    log: Path,
    every: float = 1.0,
    beside: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Watched:
    """Start a command, and look at it until it has ended.

    Args:
        command: program and arguments.
        done: function that says how much of the work is done.
        log: file for what the command prints.
        every: seconds between two looks.
        beside: function that is called once after each look, with the process.
    """
    found = Watched()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=out,
            # what a shell starts in the background ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        seen: dict[int, str] = {}
        try:
            while process.poll() is None:
                for one in family(process.pid):
                    if (fields := _stat(one)) is not None:
                        seen[one] = fields[19]  # when it began: the number may be used again
                if (now := sample(process.pid, done())) is not None:
                    found.samples.append(now)
                if beside is not None:
                    beside(process)
                time.sleep(every)
        finally:
            process.kill()
            process.wait()
    found.samples = found.samples[:-1] or found.samples  # at the last it may be half gone
    found.code = process.returncode
    found.errors = log.read_text(errors="replace")
    time.sleep(min(every, 1.5))  # a process that watches its parent looks once a second
    found.left = [
        one
        for one, began in seen.items()
        if (fields := _stat(one)) is not None and fields[19] == began and fields[0] != "Z"
    ]
    return found


def after_warm_up(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of the last 80 % of the work."""
    last = samples[-1].done
    return [one for one in samples if one.done >= WARM_UP * last]


def growth(samples: Sequence[Sample], name: str) -> float:
    """How fast a number grows after the warm-up: slope of a least-squares line, per unit of work.

    Args:
        samples: of the whole work.
        name: attribute of :class:`Sample`.

    Returns:
        0 where there are fewer than two different amounts of work.
    """
    kept = after_warm_up(samples)
    x = np.array([one.done for one in kept], np.float64)
    y = np.array([getattr(one, name) for one in kept], np.float64)
    x -= x.mean()
    return float(x @ y / (x @ x)) if x.any() else 0.0


def rise(samples: Sequence[Sample], name: str) -> float:
    """:func:`growth` over all the work after the warm-up."""
    kept = after_warm_up(samples)
    return growth(samples, name) * (kept[-1].done - kept[0].done)


def slowdown(samples: Sequence[Sample]) -> float:
    """Processor time of the last quarter of the work over that of the second quarter.

    It is 1 where all work costs the same, and 2.3 where a piece of work costs as much as all
    pieces before it (the second quarter then costs 3/16 of all, the last 7/16).
    """
    last = samples[-1].done
    at = [one.done for one in samples]
    seconds = [one.seconds for one in samples]
    first, second, third, fourth = np.interp([last / 4, last / 2, 3 * last / 4, last], at, seconds)
    return float((fourth - third) / (second - first)) if second > first else 1.0


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder. A file that goes away meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
