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
from pathlib import Path

from outcomes import Promise, finish
from warm import COMMANDS, Command, TooLate, fresh, goes_on, make_world, reference, start, warm_up


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

    Raises:
        TooLate: the command had ended by then.
    """
    folder = fresh(world, command)
    arguments = (command.name, *command.arguments)
    started = start(folder, arguments)
    if started.wait(moment) is not None:
        raise TooLate
    (os.killpg if everyone else os.kill)(started.pid, signal.SIGKILL)
    started.wait()
    if started.last_of_family() == float("inf"):
        return "a process stays alive"
    return goes_on(folder, command, (*arguments, *command.again), expected)


def trials(world: Path, command: Command, moments: int, seed: int) -> Promise:
    """Kill a command at random moments."""
    expected, seconds = reference(world, command)
    promise = Promise(f"a killed {command.name} goes on")
    draw = random.Random(f"{seed} {command.name}")
    while promise.tried < moments:
        moment, everyone = draw.uniform(0, seconds), promise.tried % 2 == 0
        try:
            wrong = trial(world, command, expected, moment, everyone)
        except TooLate:
            seconds = min(seconds, moment)
            continue
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
        make_world(Path(folder), told.seed, subjects=4)
        for command in COMMANDS:
            if command.name in told.commands:
                promises.append(trials(Path(folder), command, told.moments, told.seed))
                lines = [promises[-1].line(), *promises[-1].broken]
                print(*lines, sep="\n  ", file=sys.stderr, flush=True)
    finish(promises)


if __name__ == "__main__":
    main()
