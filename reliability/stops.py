"""Ask each long command to end, kill its helpers, take its memory, and start it twice at once.

    python reliability/stops.py --moments 5 --seed 0

- SIGTERM and Ctrl-C at a random moment: the command says with which command it goes on, ends with
  143 or 130, and that command gives the bytes of an undisturbed run. A second Ctrl-C comes 50 ms
  after the first in every other trial.
- A requeue of SLURM: SIGTERM, a pause, SIGKILL, and the same command line in the same folder. This
  happens twice.
- One of two processes is killed (SIGKILL, as the system does when memory runs out) or ended
  (SIGTERM): one line says so, nothing hangs, and the same command goes on.
- The memory of a command is limited to little more than it has: one line, exit code 2.
- Two at once in one folder: one of them is refused in one line with exit code 2.
"""

import argparse
import os
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from outcomes import Promise, finish
from warm import (
    COMMANDS,
    Command,
    Started,
    TooLate,
    fresh,
    goes_on,
    make_world,
    reference,
    start,
    warm_up,
)

LONGEST = 300
"""Seconds in which a command that was asked to end has to end."""
HAVE_PROCESSES = ("prepare", "compare")
HAVE_LOCKS = ("prepare", "pretrain", "finetune", "predict", "compare", "align", "label")
ROOM = 48 * 2**20
"""Bytes that a command may use beyond what it has when it begins, where memory is short."""

Trial = Callable[[Path, Command, dict[str, bytes], float, int], str | None]
"""World, command, expected result, seconds to the moment, number of the trial: what went wrong."""


def asked_to_end(number: int) -> Trial:
    """A trial: the command gets a signal, and says how it goes on."""

    def trial(
        world: Path, command: Command, expected: dict[str, bytes], moment: float, turn: int
    ) -> str | None:
        folder = fresh(world, command)
        started = start(folder, (command.name, *command.arguments))
        _at(started, moment)
        # a terminal sends Ctrl-C to all of the group, a scheduler may send SIGTERM so
        os.killpg(started.pid, number)
        if number == signal.SIGINT and turn % 2:
            time.sleep(0.05)
            if started.family():
                os.killpg(started.pid, number)
        code = started.wait(LONGEST)
        if wrong := _ended(started, code, {128 + number}):
            return wrong
        said = started.log.read_text()
        line = re.search(r"^interrupted; .* is kept; go on with: poscon (.*)$", said, re.MULTILINE)
        if line is None:
            return f"does not say how to go on: {said[-300:]}"
        again = line[1]
        return goes_on(folder, command, tuple(shlex.split(again)), expected)

    return trial


def requeued(
    world: Path, command: Command, expected: dict[str, bytes], moment: float, turn: int
) -> str | None:
    """A trial: SIGTERM, a pause, SIGKILL; then the very same command line, twice."""
    folder = fresh(world, command)
    arguments = (command.name, *command.arguments, *command.again)
    for _ in range(2):
        started = start(folder, arguments)
        _at(started, moment / 2)
        os.killpg(started.pid, signal.SIGTERM)
        if started.wait(0.2 * (turn % 3)) is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        started.last_of_family()
    return goes_on(folder, command, arguments, expected)


def helper_hit(number: int) -> Trial:
    """A trial: one of the command's processes gets a signal."""

    def trial(
        world: Path, command: Command, expected: dict[str, bytes], moment: float, turn: int
    ) -> str | None:
        folder = fresh(world, command)
        arguments = (command.name, *command.arguments)
        started = start(folder, arguments)
        _at(started, moment)
        helpers = [pid for pid in started.family() if pid != started.pid]
        if not helpers:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
            raise TooLate
        os.kill(helpers[turn % len(helpers)], number)
        code = started.wait(LONGEST)
        if code == 0:  # its work was done by then
            return None
        return (
            _ended(started, code, {2})
            or _one_line(started)
            or goes_on(folder, command, arguments, expected)
        )

    return trial


def short_of_memory(
    world: Path, command: Command, expected: dict[str, bytes], moment: float, turn: int
) -> str | None:
    """A trial: the command may use little more memory than it has."""
    folder = fresh(world, command)
    arguments = (command.name, *command.arguments)

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM * (1 + turn)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    started = start(folder, arguments, limit)
    code = started.wait(LONGEST)
    if code == 0:
        return None
    return (
        _ended(started, code, {2})
        or _one_line(started)
        or goes_on(folder, command, (*arguments, *command.again), expected)
    )


def two_at_once(
    world: Path, command: Command, expected: dict[str, bytes], moment: float, turn: int
) -> str | None:
    """A trial: a second command in the folder of one that is at work."""
    folder = fresh(world, command)
    arguments = (command.name, *command.arguments, *command.again)
    first = start(folder, arguments)
    _at(first, moment)
    second = start(folder, arguments, log="second.txt")
    code = second.wait(LONGEST)
    first.wait(LONGEST)
    if code is None:
        return "the second does not end"
    if code == 2:
        return _one_line(second) or goes_on(folder, command, arguments, expected)
    # the first had just ended, so the second had the folder to itself
    return None if "at work" not in second.log.read_text() else f"the second ends with {code}"


def _at(started: Started, moment: float) -> None:
    """Wait for the moment.

    Raises:
        TooLate: the command has ended by then.
    """
    if started.wait(moment) is not None:
        raise TooLate


def _ended(started: Started, code: int | None, allowed: set[int]) -> str | None:
    """What was wrong with how a command ended."""
    if code is None:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        return "does not end"
    if started.last_of_family() == float("inf"):
        return "a process stays alive"
    said = started.log.read_text().strip().splitlines()
    return None if code in allowed else f"ends with {code}: {said[-1] if said else ''}"


def _one_line(started: Started) -> str | None:
    """What was wrong with the refusal that a command printed last."""
    said = started.log.read_text()
    if "Traceback" in said or not said.strip().splitlines()[-1].startswith("error: "):
        return f"no one clear line: {said[-300:]}"
    return None


def trials(
    promise: Promise, trial: Trial, world: Path, command: Command, moments: int, seed: int
) -> None:
    """Try a promise at random moments of a command."""
    expected, seconds = reference(world, command)
    draw = random.Random(f"{seed} {promise.words} {command.name}")
    for turn in range(moments):
        for _ in range(20):  # a moment after the end is none
            moment = draw.uniform(0.1 * seconds, seconds)
            try:
                wrong = trial(world, command, expected, moment, turn)
            except TooLate:
                continue
            promise.note(wrong is None, f"{command.name}, {moment:.3f} s, turn {turn}: {wrong}")
            break


KINDS: tuple[tuple[str, Trial, tuple[str, ...]], ...] = (
    ("SIGTERM", asked_to_end(signal.SIGTERM), tuple(command.name for command in COMMANDS)),
    ("Ctrl-C", asked_to_end(signal.SIGINT), tuple(command.name for command in COMMANDS)),
    ("requeued", requeued, ("pretrain", "finetune", "predict", *HAVE_PROCESSES)),
    ("a process killed", helper_hit(signal.SIGKILL), HAVE_PROCESSES),
    ("a process ended", helper_hit(signal.SIGTERM), HAVE_PROCESSES),
    ("short of memory", short_of_memory, ("prepare", "pretrain", "finetune", "predict")),
    ("two at once", two_at_once, HAVE_LOCKS),
)
"""What is tried, how, and with which commands."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=5, help="tries of each kind and command")
    parser.add_argument("--seed", type=int, default=0)
    names = [command.name for command in COMMANDS]
    parser.add_argument("--commands", nargs="+", choices=names, default=names, metavar="COMMAND")
    told = parser.parse_args()
    warm_up()
    promises = []
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder), told.seed, subjects=4)
        for words, trial, which in KINDS:
            promises.append(Promise(words))
            for command in COMMANDS:
                if command.name in which and command.name in told.commands:
                    trials(promises[-1], trial, Path(folder), command, told.moments, told.seed)
            lines = [promises[-1].line(), *promises[-1].broken]
            print(*lines, sep="\n  ", file=sys.stderr, flush=True)
    finish(promises)


if __name__ == "__main__":
    main()
