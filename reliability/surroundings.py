"""Machines and shells that give a process less than usual, and targets with unusual names.

    python reliability/surroundings.py --seed 0

Each command is run where something is missing: shared memory, HOME, a place for temporary files, a
locale, a terminal, stdout, the working folder, file descriptors. It does its work, or refuses in
one line. Some of it needs mounts, which need Linux and root or user namespaces.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from commandline import Outcome
from disks import said, together
from mounts import PAGE, disk, empty, make_read_only, own_mounts
from outcomes import Promise, finish
from scene import Command, Scene, content

from poscon import executors

COMMANDS = ("prepare", "predict", "evaluate", "inspect", "label", "suggest")
NAMES: dict[str, bytes] = {
    "spaces and quotes": b"a 'b' \"c\" $HOME ;",
    "a new line": b"first\nsecond",
    "not UTF-8": b"gr\xf6sse\xff",
    "255 bytes": b"n" * 255,
    "begins with a dash, in a folder": b"-rf",
}


def changed(**variables: str | None) -> Callable[[], None]:
    """What sets environment variables, and removes those that are None."""

    def change() -> None:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None  # it is looked up once

    return change


def surroundings(nowhere: Path, small: Path) -> Mapping[str, Callable[[], object]]:
    """What is done in the process before the command, by what is missing.

    Args:
        nowhere: a read-only folder.
        small: a full disk.
    """

    def no_working_folder() -> None:
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)

    files = (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return {
        "no HOME": changed(HOME=None, XDG_CACHE_HOME=None, MPLCONFIGDIR=None),
        "a HOME that cannot be written": changed(HOME=str(nowhere)),
        "no TMPDIR": changed(TMPDIR=None),
        "a TMPDIR that is absent": changed(TMPDIR=str(nowhere / "absent")),
        "a full TMPDIR": changed(TMPDIR=str(small)),
        "no terminal type": changed(TERM="dumb"),
        "umask 077": lambda: os.umask(0o077),
        "64 open files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files),
        "a working folder that was deleted": no_working_folder,
    }


def try_surroundings(scene: Scene, command: Command) -> list[Promise]:
    """Run a command in each of the surroundings; absolute paths must work in all of them."""
    found = []
    wanted = None
    nowhere, small = scene.folder / "nowhere", scene.folder / "small"
    with disk(nowhere, PAGE), disk(small, PAGE):
        make_read_only(nowhere)
        (small / "full").write_bytes(b"\0" * PAGE) if not any(small.iterdir()) else None
        for name, before in {"as usual": None, **surroundings(nowhere, small)}.items():
            with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
                target = Path(folder) / "out"
                scene.put(command, target)
                outcome = scene.do(command, target, before)
                result = content(Path(folder))
            wanted = wanted or result
            promise = Promise(f"{name}: the work is done")
            promise.note(outcome.code == 0 and result == wanted, f"{command.name}: {outcome}")
            found.append(promise)
    return found


def try_names(scene: Scene, command: Command) -> list[Promise]:
    """Targets with unusual names work; one that no file system takes is refused in one line."""
    works = Promise("a target with an unusual name works")
    too_long = Promise("a target with a name of 256 bytes is one line and exit code 2")
    with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
        for what, raw in NAMES.items():
            target = Path(folder) / os.fsdecode(raw)
            scene.put(command, target)
            outcome = scene.do(command, target)
            works.note(outcome.code == 0, f"{command.name}, {what}: {outcome}")
        outcome = scene.do(command, Path(folder) / ("n" * 256))
        too_long.note(outcome.refused, f"{command.name}: {outcome}")
    return [works, too_long]


def try_relative(scene: Scene) -> Promise:
    """In a folder that was deleted a relative path is refused in one line."""
    promise = Promise("a relative path in a deleted working folder is one line and exit code 2")
    before = surroundings(scene.folder, scene.folder)["a working folder that was deleted"]
    for arguments in (
        ("prepare", scene.scans, "store"),
        ("predict", scene.finetuned, scene.scans, "out"),
        ("evaluate", scene.predictions, scene.scans, "--out", "results"),
        ("pretrain", scene.store, "run"),
        ("suggest", scene.unlabelled, "next", "--budget", 2),
        ("export", scene.finetuned, "out", "--to", "torch"),
        ("compare", scene.plan, "out"),
        ("demo",),
    ):
        outcome = scene.run(arguments, before)
        promise.note(outcome.refused, f"{arguments[0]}: {outcome}")
    return promise


def try_shared_memory(scene: Scene) -> Promise:
    """Where no process can be started, their work is done in one."""
    promise = Promise("no shared memory: the work is done in one process, and a line says so")

    def before() -> None:
        executors.ProcessPoolExecutor = ProcessPoolExecutor  # type: ignore[misc]
        own_mounts()
        empty(Path("/dev/shm"))

    with tempfile.TemporaryDirectory(dir=scene.folder) as folder:
        target = Path(folder) / "store"
        outcome = scene.run(("prepare", scene.scans, target, "--processes", 2), before)
        noted = "is /dev/shm missing?" in outcome.err
        promise.note(outcome.code == 0 and noted, f"prepare: {outcome}")
    return promise


def try_streams(scene: Scene) -> list[Promise]:
    """Streams that are closed, or break, or take ASCII only; in processes of their own."""
    closed = Promise("stdout, stdin or stderr that is closed: exit code 0, no traceback")
    broken = Promise("a pipe that breaks: no traceback")
    plain = Promise("no locale: the work is done")
    python = f"{sys.executable} -m poscon"
    evaluate = f"evaluate {scene.predictions} {scene.scans}"
    for words in ("plans", evaluate):
        for end in (">&-", "<&-", "2>&-", ">&- 2>&- <&-"):
            outcome = in_shell(f"{python} {words} {end}")
            closed.note(
                outcome.code == 0 and "Traceback" not in outcome.err, f"{words} {end}: {outcome}"
            )
    for words in ("methods", "plans acdc", "layouts --json"):
        outcome = in_shell(f"{python} {words} | head -c 1")
        broken.note("Traceback" not in outcome.err and "rror" not in outcome.err, words)
    for number, locale in enumerate(("C", "POSIX")):
        target = scene.folder / f"größe {number}"
        variables = f"LC_ALL={locale} LANG={locale} PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
        outcome = in_shell(f"{variables} {python} prepare {scene.scans} '{target}' --spacing 8")
        plain.note(outcome.code == 0 and (target / "manifest.json").is_file(), str(outcome))
    return [closed, broken, plain]


def in_shell(line: str) -> Outcome:
    """Run a line of a shell."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", default=",".join(COMMANDS), help="names with commas between")
    parser.add_argument("--seed", type=int, choices=[0], default=0, help="nothing is drawn")
    told = parser.parse_args()
    own_mounts()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.made(Path(folder))
        found: list[Promise] = []
        for name in told.commands.split(","):
            command = scene.commands()[name]
            for trial in (try_surroundings, try_names):
                found += said(name, partial(trial, scene, command))
        found += said("relative paths", lambda: [try_relative(scene)])
        found += said("shared memory", lambda: [try_shared_memory(scene)])
        found += said("streams", partial(try_streams, scene))
    finish(together(found))


if __name__ == "__main__":
    main()
