"""Measuring side by side: in turn, on the same cores, medians over the rounds."""

import argparse
import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TypeVar

import SimpleITK
import torch

from poscon.errors import PosconError
from poscon.memory import keep_freed_memory

Key = TypeVar("Key", bound=Hashable)
Threads = SimpleITK.ProcessObject


def run(main: Callable[[], None]) -> None:
    """Run a script as the command line runs poscon; what its user can mend is one line."""
    keep_freed_memory()
    try:
        main()
    except PosconError as error:
        sys.exit(f"error: {error}")


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """An argument that is a whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def cores(n: int) -> Iterator[None]:
    """Keep this process and those it starts on ``n`` cores, and torch and ITK on ``n`` threads.

    Raises:
        PosconError: the process has not as many.
    """
    allowed, torch_threads = os.sched_getaffinity(0), torch.get_num_threads()
    itk_threads = Threads.GetGlobalDefaultNumberOfThreads()
    if not 1 <= n <= len(allowed):
        raise PosconError(f"{n} cores asked for, this process may use 1 to {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[:n])
    torch.set_num_threads(n)
    Threads.SetGlobalDefaultNumberOfThreads(n)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(torch_threads)
        Threads.SetGlobalDefaultNumberOfThreads(itk_threads)


def rate(
    work: Callable[[], object],
    seconds: float,
    finish: Callable[[], object] = lambda: None,
    least: int = 1,
) -> float:
    """How often a second ``work`` is done.

    Args:
        work: what is measured.
        seconds: about how long.
        finish: waits for what has been begun only; its time counts.
        least: how often it is done at least, however long that takes.
    """
    times, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or times < least:
        work()
        times += 1
    finish()
    return times / (time.perf_counter() - started)


def interleaved(measures: Mapping[Key, Callable[[], float]], rounds: int) -> dict[Key, list[float]]:
    """Take every measure once a round, in turn, so that a slow minute meets all of them.

    Each is told at once on standard error, as a run that is stopped prints no table.
    """
    found: dict[Key, list[float]] = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            found[name].append(measure())
            print(
                f"round {number} of {rounds}: {name}: {found[name][-1]:.4g} times a second",
                file=sys.stderr,
                flush=True,
            )
    return found


def ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def give_back_freed_memory() -> None:
    """To the system, whatever is kept: a process that is forked now would hold on to a copy."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)
