"""Contrast by position and phase, on synthetic hearts that beat."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.prepare import prepare
from poscon.store.store import Store

SUBJECTS, SLICES, FRAMES, SIZE = 6, 6, 8, 40
TRAINING = ["network.width=8", "network.levels=2", "size=32", "batch=48", "loss.threshold=0.2"]


def beating_heart(generator: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE, SLICES, FRAMES): a disc and a ring that beat, the ring brighter at each level.

    The ring beats a quarter of a cycle later than the disc, so that no two times look alike.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + generator.uniform(-2, 2, (2, 1, 1))
    distance = np.hypot(rows, columns)
    scale, brightness = generator.uniform(0.95, 1.05), generator.uniform(80, 120)
    cine = generator.normal(0, 5, (SIZE, SIZE, SLICES, FRAMES))
    for frame in range(FRAMES):
        time = 2 * np.pi * frame / FRAMES
        disc = distance < scale * (6 + 2.5 * np.cos(time))
        ring = np.abs(distance - scale * (13 + 2.5 * np.sin(time))) < 1.5
        for number in range(SLICES):
            cine[:, :, number, frame] += brightness * (disc + (number + 1) / SLICES * ring)
    return cine


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("cines"), np.random.default_rng(0)
    for number in range(SUBJECTS):
        image = nib.Nifti1Image(beating_heart(generator).astype(np.int16), np.diag([1, 1, 8, 1]))
        nib.save(image, folder / f"heart{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def cines(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("prepared") / "store"
    prepare(scans, store, modality="MR")
    return store


def trained(
    poscon: Callable[..., tuple[int, str, str]], store: Path, run: Path, *more: str
) -> dict[str, float]:
    """The last row of a pre-training."""
    given = [part for change in (*TRAINING, *more) for part in ("--set", change)]
    code, _, err = poscon("pretrain", store, run, "--epochs", 12, *given)
    assert code == 0, err
    assert "phase retrieval error" in err
    with (run / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    return {name: float(text) for name, text in last.items() if text}


def test_the_store_keeps_the_phase(cines: Path) -> None:
    cases = Store(cines).cases
    assert len(cases) == SUBJECTS * FRAMES
    for case in cases:
        assert case.frame_index is not None
        assert case.phase == case.frame_index / FRAMES


def test_an_encoder_learns_the_phase_if_it_is_asked_to(
    cines: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    with_phase = trained(poscon, cines, tmp_path / "with", "loss.phase=0.2")
    without = trained(poscon, cines, tmp_path / "without")
    assert with_phase["phase_error"] < 0.75 * without["phase_error"]
    for last in (with_phase, without):
        assert last["retrieval_error"] < 0.25 * last["retrieval_chance"]


@pytest.mark.parametrize("method", ["pcl", "pcl-mae"])
def test_a_volume_without_a_phase_is_named(
    method: str,
    scans: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    for file in scans.iterdir():
        (tmp_path / "scans" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "scans" / file.name).symlink_to(file)
    one = nib.load(scans / "heart0.nii.gz").slicer[..., 0]
    nib.save(one, tmp_path / "scans" / "still.nii.gz")
    code, _, err = poscon("prepare", tmp_path / "scans", tmp_path / "store", "--modality", "MR")
    assert code == 0, err
    run = tmp_path / "run"
    code, _, err = poscon(
        *("pretrain", tmp_path / "store", run, "--method", method),
        *("--set", "loss.phase=0.1", "--set", "size=32"),
    )
    assert code == 2
    assert "case still has no phase" in err.replace("\n", " ")
    assert not run.exists()


def test_a_store_of_an_earlier_version_has_no_phases(
    cines: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "cases").symlink_to(cines / "cases")
    manifest = json.loads((cines / "manifest.json").read_text())
    manifest["schema_version"] = 6
    for case in manifest["cases"]:
        del case["phase"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert {case.phase for case in Store(store).cases} == {None}
    code, _, err = poscon("pretrain", store, tmp_path / "run", "--set", "loss.phase=0.1")
    assert code == 2
    assert "has no phase" in err.replace("\n", " ")


def test_a_phase_beyond_half_a_cycle_is_refused(
    cines: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = poscon("pretrain", cines, tmp_path / "run", "--set", "loss.phase=0.6")
    assert code == 2
    assert "phase = 0.6 is beyond half the cycle" in err.replace("\n", " ")
