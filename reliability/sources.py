"""Sources that vanish or change while a command reads them: tried with every command that reads.

    python reliability/sources.py [--commands prepare,predict] [--moments 3] --seed 0

Just before a command opens a file for the n-th time, the file is deleted, cut in half, or gets
other bytes. So the change falls between the listing and the reading, or between the header and the
data. Then the file is put back, and the same command must give what it gives without the fault.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from disks import WARM, difference, said, together, warm
from outcomes import Promise, finish
from scene import Command, Scene, content, done


def sources(scene: Scene) -> dict[str, list[Path]]:
    """The files that are damaged, for each command."""
    case, store_case = "phantom_001.nii.gz", scene.store / "cases" / "phantom_001"
    image, label = scene.scans / "imagesTr" / case, scene.scans / "labelsTr" / case
    model = scene.finetuned / "model.safetensors"
    return {
        "prepare": [image, label, scene.scans / "dataset.json"],
        "pretrain": [store_case / "image.npy", scene.store / "manifest.json"],
        "finetune": [
            *(store_case / name for name in ("image.npy", "label.npy")),
            scene.pretrained / "encoder.safetensors",
        ],
        "predict": [image, model],
        "evaluate": [label, scene.predictions / case, scene.predictions / "labels.json"],
        "suggest": [image, scene.unlabelled / "cases" / "phantom_001" / "image.npy"],
        "label": [label],
        "export torch": [model],
    }


def opened(counts: Counter[str], act: Callable[[str, int], None]) -> Callable[[], None]:
    """What makes a process call ``act`` with a path and a number, before each opening of a file."""
    busy: list[bool] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or busy or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        counts[path] += 1
        busy.append(True)
        act(path, counts[path])
        busy.clear()

    return lambda: sys.addaudithook(hook)


def times_opened(scene: Scene, command: Command, place: Path, file: Path) -> int:
    """How often a command opens a file."""
    log = scene.folder / "opened"
    log.write_text("")

    def note(path: str, _: int) -> None:
        if path == str(file):
            with log.open("a") as stream:
                stream.write(".")

    scene.put(command, place / "out")
    done(scene.do(command, place / "out", opened(Counter(), note)), command.name)
    return len(log.read_text())


def damage(how: str, path: Path, random: np.random.Generator) -> None:
    """Delete a file, cut it in half, or give it other bytes."""
    whole = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(random.bytes(len(whole)))


def try_file(
    scene: Scene, command: Command, place: Path, file: Path, moments: int, seed: int
) -> list[Promise]:
    """Damage one file at its first openings by a command, in each way."""
    one_line = Promise("a source that vanishes or changes is one line and exit code 2")
    afterwards = Promise("after the source is put back the same command gives the same result")
    whole = file.read_bytes()
    times = times_opened(scene, command, place / "counted", file)
    wanted = content(place / "counted")
    for number in range(1, min(times, moments) + 1):
        for how in ("deleted", "cut", "other bytes"):
            what = f"{command.name}, {file.name} {how} before opening {number} of {times}"
            here = place / f"{number} {how}"
            target = here / "out"
            scene.put(command, target)

            def act(path: str, n: int, number: int = number, how: str = how) -> None:
                if path == str(file) and n == number:
                    damage(how, file, np.random.default_rng(seed))

            outcome = scene.do(command, target, opened(Counter(), act))
            if not outcome.code:
                one_line.note(content(here) == wanted, f"{what}: exit code 0, another result")
            else:
                one_line.note(outcome.refused, f"{what}: {outcome}")
            file.write_bytes(whole)
            if outcome.code:
                for results in target.glob("results.*"):  # of what could be measured
                    results.unlink()
                outcome = scene.do(command, target, again=True)
                same = outcome.code == 0 and content(here) == wanted
                afterwards.note(same, f"{what}: {outcome}; {difference(content(here), wanted)}")
    return [one_line, afterwards]


def trials(scene: Scene, names: list[str], moments: int, seed: int) -> list[Promise]:
    """Damage the sources of the commands of these names."""
    commands, found = scene.commands(), []
    for name in names:
        for number, file in enumerate(sources(scene)[name]):
            place = scene.folder / "sources" / f"{name} {number}"
            trial = partial(try_file, scene, commands[name], place, file, moments, seed)
            found += said(f"{name}, {file.name}", trial)
    return together(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", help="names with commas between them; default: all")
    parser.add_argument("--moments", type=int, default=3, help="first openings of each file")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    warm(WARM)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.made(Path(folder))
        names = told.commands.split(",") if told.commands else list(sources(scene))
        found = trials(scene, names, told.moments, told.seed)
    finish(found)


if __name__ == "__main__":
    main()
