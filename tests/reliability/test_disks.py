"""Small versions of the trials of disks, sources and surroundings, so that the scripts hold."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import disks
import mounts
import numpy as np
import pytest
import sources
import surroundings
from outcomes import Promise
from scene import Scene


@pytest.fixture
def scene(
    tmp_path: Path,
    scans: Path,
    store: Path,
    pretrained: Path,
    finetuned: Path,
) -> Scene:
    """What other tests have made; no command here changes it."""
    nowhere = tmp_path / "nowhere"
    return Scene(tmp_path, scans, store, nowhere, pretrained, finetuned, nowhere, nowhere, nowhere)


def apart(trial: Callable[[], list[Promise]], folder: Path) -> tuple[int, list[str]]:
    """Do a trial in a process with mounts of its own: how often was tried, and what was broken.

    The test is skipped where nothing can be mounted.
    """
    told = folder / "told"
    child = os.fork()
    if child == 0:
        try:
            mounts.own_mounts()
            found = trial()
            lines = [str(sum(each.tried for each in found)), *(b for p in found for b in p.broken)]
            told.write_text("\n".join(lines))
        except mounts.NoMountsError as error:
            told.write_text(f"skip {error}")
        except BaseException:
            told.write_text(f"0\n{traceback.format_exc()}")
        os._exit(0)
    os.waitpid(child, 0)
    first, *broken = told.read_text().splitlines()
    if first.startswith("skip"):
        pytest.skip(first)
    return int(first), broken


def test_a_full_and_a_read_only_disk(scene: Scene, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    command = scene.commands()["prepare"]

    def trial() -> list[Promise]:
        place = tmp_path / "disk"
        full = disks.try_full_disk(scene, command, place, 1, random)
        return [*full, *disks.try_places(scene, command, place)]

    tried, broken = apart(trial, tmp_path)
    assert (tried, broken) == (1 + 1 + 1 + 2 + 1, [])


def test_a_source_that_vanishes_or_changes(scene: Scene, tmp_path: Path) -> None:
    copied = tmp_path / "maps"
    copied.mkdir()
    for path in sorted((scene.scans / "labelsTr").iterdir())[:2]:
        (copied / path.name).write_bytes(path.read_bytes())
    command = sources.Command("label", ("TARGET", copied), inside=scene.store)
    image = copied / "phantom_001.nii.gz"
    found = sources.try_file(scene, command, tmp_path / "places", image, 1, 0)
    assert [(each.tried, each.broken) for each in found] == [(3, []), (3, [])]


def test_unusual_names(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: surroundings.NAMES[name] for name in ("a new line", "255 bytes")}
    monkeypatch.setattr(surroundings, "NAMES", few)
    command = scene.commands()["label"]
    command = surroundings.Command("label", command.arguments, inside=scene.store)
    works, too_long = surroundings.try_names(scene, command)
    assert (works.broken, too_long.broken) == ([], [])
    assert works.tried == len(few)
