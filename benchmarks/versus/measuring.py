"""Measuring side by side: in turn, on the same cores, medians over the rounds."""

import argparse
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
    work: Callable[[], object], seconds: float, finish: Callable[[], object] = lambda: None
) -> float:
    """How often a second ``work`` is done: once at least, else as often as begins in ``seconds``.

    Args:
        work: what is measured.
        seconds: about how long.
        finish: waits for what has been begun only; its time counts.
    """
    times, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or not times:
        work()
        times += 1
    finish()
    return times / (time.perf_counter() - started)


def interleaved(measures: Mapping[Key, Callable[[], float]], rounds: int) -> dict[Key, list[float]]:
    """Take every measure once a round, in turn, so that a slow minute meets all of them."""
    found: dict[Key, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)
