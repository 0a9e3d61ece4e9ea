"""Kill each long command at random moments, start it again, and compare with an undisturbed run.

A trial kills a command with signal 9, every second time only its first process and not the others.
Then nothing of it may stay alive and every file in place must be readable. The same command is
given again, with ``--resume`` where the documentation says so. It must end well, with the bytes of
the run that was left alone (but for times), and leave nothing half-written behind.

    python reliability/kill.py --moments 50 --seed 0
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from outcomes import Promise, finish
from warm import (
    COMMANDS,
    Command,
    broken_files,
    contents,
    fresh,
    leftovers,
    make_world,
    start,
    warm_up,
)


def reference(world: Path, command: Command) -> tuple[dict[str, bytes], float]:
    """What an undisturbed run writes, and the seconds it takes.

    Raises:
        RuntimeError: it fails, or two such runs differ.
    """
    found, seconds = [], []
    for _ in range(2):
        folder = fresh(world, command)
        started = start(folder, (command.name, *command.arguments))
        if started.wait() != 0:
            raise RuntimeError(f"poscon {command.name}: {started.log.read_text()}")
        seconds.append(time.monotonic() - started.began)
        found.append(contents(folder / command.writes))
    if different := differences(*found):
        raise RuntimeError(f"poscon {command.name}: two undisturbed runs differ: {different}")
    return found[0], seconds[1]


def differences(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """The files that only one of two results has, or that differ."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def trial(
    world: Path, command: Command, expected: dict[str, bytes], moment: float, everyone: bool
) -> str | None:
    """Kill a command once and start it again; what went wrong, or None.

    Args:
        world: see :func:`warm.make_world`.
        command: which.
        expected: what an undisturbed run writes.
        moment: seconds after its beginning.
        everyone: whether all its processes are killed, or only the first.
    """
    folder = fresh(world, command)
    arguments = (command.name, *command.arguments)
    started = start(folder, arguments)
    code = started.wait(moment)
    if code is None:
        (os.killpg if everyone else os.kill)(started.pid, signal.SIGKILL)
        started.wait()
    target = folder / command.writes
    if started.last_of_family() > 5:
        return "a process stays alive"
    if broken := broken_files(target):
        return f"cannot be read: {broken}"
    if code is None:
        second = start(folder, (*arguments, *command.again))
        code = second.wait()
        if code is None:
            os.killpg(second.pid, signal.SIGKILL)
            return "the second call does not end"
        said = second.log.read_text().strip()
        # what was killed after its last file was in place
        complete = code == 2 and ("exists already" in said or "a store already" in said)
        if code != 0 and not complete:
            return f"the second call ends with {code}: {said.splitlines()[-1] if said else ''}"
    if different := differences(expected, contents(target)):
        return f"differs from the undisturbed run: {different}"
    if left := leftovers(target):
        return f"left behind: {left}"
    return None


def trials(world: Path, command: Command, moments: int, seed: int) -> Promise:
    """Kill a command at random moments."""
    expected, seconds = reference(world, command)
    promise = Promise(f"killed {command.name} goes on ({seconds:.1f} s)")
    draw = random.Random(f"{seed} {command.name}")
    for number in range(moments):
        moment, everyone = draw.uniform(0, seconds), number % 2 == 0
        wrong = trial(world, command, expected, moment, everyone)
        whom = "all its processes" if everyone else "its first process"
        promise.note(wrong is None, f"{whom} killed after {moment:.3f} s: {wrong}")
    return promise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=50, help="how often each command is killed")
    parser.add_argument("--seed", type=int, default=0)
    names = [command.name for command in COMMANDS]
    parser.add_argument("--commands", nargs="+", choices=names, default=names, metavar="COMMAND")
    told = parser.parse_args()
    warm_up()
    promises = []
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder), told.seed, subjects=5)
        for command in COMMANDS:
            if command.name in told.commands:
                promises.append(trials(Path(folder), command, told.moments, told.seed))
                print(
                    promises[-1].line(),
                    *promises[-1].broken,
                    sep="\n  ",
                    file=sys.stderr,
                    flush=True,
                )
    finish(promises)


if __name__ == "__main__":
    main()
