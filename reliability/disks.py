"""Disks that are full or read-only, and targets that are files: every command that writes.

    python reliability/disks.py [--commands prepare,predict] [--sizes 20] --seed 0

A small file system of memory is the disk. Its size is swept, so that it is full at many moments of
a command. Then it gets more room, and the same command must give what it gives without the fault.
Only Linux can do that, as root or with user namespaces; elsewhere nothing is tried.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from mounts import PAGE, NoMountsError, disk, make_read_only, own_mounts, resize, used
from outcomes import Promise, finish
from scene import Command, Scene, content, done

ROOM = 2**26
SLOW = {"compare": 5, "demo": 5, "export onnx": 5}
"""Commands that take many seconds, and how many times fewer sizes are tried with them."""
WARM = (
    *("poscon.commands.demo", "poscon.comparison.compare", "poscon.reports.report"),
    *("lightning_fabric.loggers", "monai.metrics.utils", "matplotlib.backends.backend_svg"),
    *("poscon.commands.align", "poscon.commands.export", "poscon.commands.inspect"),
)
"""Modules that are imported once, not in every trial."""
WARM_ONNX = ("torch.export", "torch.onnx", "onnxscript", "onnxruntime")


def warm(modules: Sequence[str]) -> None:
    """Import modules before anything is tried, where they are installed."""
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)


def try_full_disk(
    scene: Scene, command: Command, place: Path, sizes: int, random: np.random.Generator
) -> list[Promise]:
    """Let the disk be full at many moments of a command."""
    one_line = Promise("a full disk is one line and exit code 2")
    afterwards = Promise("after a full disk the same command gives the same result")
    with disk(place, ROOM):
        target = place / "out"
        scene.put(command, target)
        before = used(place)
        done(scene.do(command, target), command.name)
        wanted, after = content(place), used(place)
    steps = np.linspace(before + PAGE, after, sizes, endpoint=False)
    for step in steps + random.uniform(0, (after - before) / sizes, sizes):
        size = int(step) // PAGE * PAGE
        what = f"{command.name}, {size} bytes of {after}"
        with disk(place, ROOM):
            scene.put(command, target)
            resize(place, size)
            outcome = scene.do(command, target)
            if outcome.code != 0:
                one_line.note(outcome.refused, f"{what}: {outcome}")
            resize(place, ROOM)
            if outcome.code != 0:
                outcome = scene.do(command, target, again=True)
            same = outcome.code == 0 and content(place) == wanted
            afterwards.note(same, f"{what}: {outcome}; {difference(content(place), wanted)}")
    return [one_line, afterwards]


def try_places(scene: Scene, command: Command, place: Path) -> list[Promise]:
    """Targets at which nothing can be written: read-only, a file, below a file."""
    read_only = Promise("a read-only disk is one line and exit code 2")
    a_file = Promise("a target that is a file, or lies below one, is one line and exit code 2")
    with disk(place, ROOM):
        scene.put(command, place / "out")
        make_read_only(place)
        outcome = scene.do(command, place / "out")
        read_only.note(outcome.refused, f"{command.name}: {outcome}")
    with disk(place, ROOM):
        (place / "file").write_text("mine\n")
        for target in (place / "file", place / "file" / "out"):
            outcome = scene.do(command, target)
            kept = content(place) == content_of_text("file", "mine\n", place.parent)
            a_file.note(
                outcome.refused and kept, f"{command.name}, {target.relative_to(place)}: {outcome}"
            )
    found = [read_only, a_file]
    if command.inside is None:
        found.append(try_absent_folder(scene, command, place))
    return found


def try_absent_folder(scene: Scene, command: Command, place: Path) -> Promise:
    """A target in folders that do not exist yet."""
    absent = Promise("a target in a folder that does not exist is made, or one line")
    with disk(place, ROOM):
        outcome = scene.do(command, place / "a" / "b" / "out")
        absent.note(outcome.code == 0 or outcome.refused, f"{command.name}: {outcome}")
    return absent


def content_of_text(name: str, text: str, scratch: Path) -> dict[str, str]:
    """What :func:`scene.content` says of a folder with this one file."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        (Path(folder) / name).write_text(text)
        return content(Path(folder))


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """In which files two folders differ."""
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return f"differs in {', '.join(names[:5]) or 'nothing'}"


def together(promises: Sequence[Promise]) -> list[Promise]:
    """Promises of the same words as one."""
    found: dict[str, Promise] = {}
    for promise in promises:
        whole = found.setdefault(promise.words, Promise(promise.words))
        whole.tried += promise.tried
        whole.broken += promise.broken
    return list(found.values())


def trials(scene: Scene, names: Sequence[str], sizes: int, seed: int) -> list[Promise]:
    """Try all of it with the commands of these names."""
    random = np.random.default_rng(seed)
    place = scene.folder / "disk"
    found: list[Promise] = []
    commands = scene.commands()
    for name in names:
        command = commands[name]
        few = max(2, sizes // SLOW.get(name, 1))
        found += said(name, partial(try_full_disk, scene, command, place, few, random))
        found += said(name, partial(try_places, scene, command, place))
    return together(found)


def said(name: str, trial: Callable[[], list[Promise]]) -> list[Promise]:
    """Do a trial, and show on stderr how it went."""
    found = trial()
    for promise in found:
        print(f"{name}: {promise.line()}", file=sys.stderr, flush=True)
        for what in promise.broken:
            print(f"  {what}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", help="names with commas between them; default: all")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of the disk for each command")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    try:
        own_mounts()
    except NoMountsError as error:
        sys.exit(f"nothing was tried: {error}")
    warm(WARM)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.made(Path(folder))
        names = told.commands.split(",") if told.commands else list(scene.commands())
        if "export onnx" in names:
            warm(WARM_ONNX)
        found = trials(scene, names, told.sizes, told.seed)
    finish(found)


if __name__ == "__main__":
    main()
