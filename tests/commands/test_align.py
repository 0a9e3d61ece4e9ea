"""Positions that are learned from a store's images, from the command line to a pre-training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poscon.commands.align import align
from poscon.commands.inspect import inspect
from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.positions import POSITIONS
from poscon.store.manifest import AxisRecord
from poscon.store.placing import place_cases
from poscon.store.store import Store
from poscon.volumes.phantom import write_phantom

Run = Callable[..., tuple[int, str, str]]
TINY = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32", "-s", "batch=16"]


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


def test_every_case_gets_its_place_and_nothing_else_changes(
    copied: Path, store: Path, poscon: Run
) -> None:
    code, out, _ = poscon("align", copied)
    assert code == 0
    assert "of fewer than 8 subjects they are not believed" in out
    assert (copied / "alignment.png").stat().st_size > 10_000
    before, after = Store(store), Store(copied)
    for was, case in zip(before.cases, after.cases, strict=True):
        assert case.axis is not None
        length = (case.shape[0] - 1) * case.spacing[0]
        assert abs(case.axis.last - case.axis.first) == pytest.approx(length, rel=0.3)
        np.testing.assert_array_equal(after.image(case), before.image(was))
    written = json.loads((copied / "manifest.json").read_text())
    for case in written["cases"]:
        assert case.pop("axis")
    original = json.loads((store / "manifest.json").read_text())
    for case in original["cases"]:
        case.pop("axis", None)
    assert written == original


def test_where_every_scan_shows_the_same_the_positions_are_those_in_the_scan(
    store: Path, copied: Path, tmp_path: Path, poscon: Run
) -> None:
    found = align(copied)
    assert not found.by_images
    cases = Store(copied).cases
    extent = np.median([case.shape[0] * case.spacing[0] for case in cases])
    for case in cases:
        np.testing.assert_allclose(
            POSITIONS["learned"].of_slices(case),
            extent * (POSITIONS["relative"].of_slices(case) - 0.5),
            atol=1e-3,
        )
    given = ("-s", "position=learned", "-s", "loss.threshold=12", "--epochs", 1)
    code, _, err = poscon("pretrain", store, tmp_path / "run", *given, *TINY)
    assert code == 0
    assert f"note: {found.summary}" in " ".join(err.split())


def test_scans_that_begin_anywhere_are_placed_by_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poscon: Run
) -> None:
    write_phantom(tmp_path / "scans", subjects=9, seed=7)
    prepare(tmp_path / "scans", tmp_path / "store", spacing=6.0, processes=1)
    body = np.random.default_rng(7).normal(size=(800, 24)).cumsum(axis=0)
    at = [
        25.0 * number + case.spacing[0] * np.arange(case.shape[0])
        for number, case in enumerate(Store(tmp_path / "store").cases)
    ]
    shown = [np.stack([np.interp(x, np.arange(800), row) for row in body.T], axis=1) for x in at]
    features = iter(shown)
    monkeypatch.setattr("poscon.store.placing.thumbnails", lambda stack: next(features))
    code, out, _ = poscon("align", tmp_path / "store")
    assert code == 0
    assert "9 of 9 volumes are placed by their images: slices that look alike usually lie" in out
    first = [case.axis.first for case in Store(tmp_path / "store").cases if case.axis is not None]
    np.testing.assert_allclose(np.diff(first), 25, atol=10)


def test_it_repeats_where_there_are_positions_already(copied: Path) -> None:
    assert align(copied).axis == align(copied).axis


def test_a_volume_that_runs_the_other_way_is_listed_and_can_be_turned(
    scans: Path, tmp_path: Path, poscon: Run
) -> None:
    (tmp_path / "turned.txt").write_text("phantom_002\n")
    prepare(scans, tmp_path / "store", spacing=6.0, reverse=["phantom_002"], processes=1)
    code, out, _ = poscon("align", tmp_path / "store")
    assert code == 0
    listed = tmp_path / "store" / "reversed.txt"
    assert listed.read_text() == "phantom_002\n"
    assert f"poscon prepare --reverse {listed}" in out
    case = Store(tmp_path / "store").select(["phantom_002"], where="test")[0]
    assert case.axis is not None
    assert case.axis.first > case.axis.last
    found = inspect(tmp_path / "store", tmp_path / "sheet.png").findings
    listed_by_images = [f.case for f in found if "by their images" in f.kind]
    assert listed_by_images == ["phantom_002"]
    code, _, err = poscon(
        *("pretrain", tmp_path / "store", tmp_path / "run", "--epochs", 1),
        *TINY,
    )
    assert code == 0
    assert "1 volume(s) run against the others, such as phantom_002" in err
    assert "or use position=learned" in err
    code, _, err = poscon(
        *("pretrain", tmp_path / "store", tmp_path / "learned", "--epochs", 1),
        *(*TINY, "-s", "position=learned", "-s", "loss.threshold=12"),
    )
    assert code == 0
    assert "1 volume(s) run against the others, such as phantom_002" in err
    assert "or use position=learned" not in err  # it is used
    code, _, err = poscon(
        *("finetune", tmp_path / "store", tmp_path / "supervised", "--iterations", 1),
        *TINY,
    )
    assert code == 0
    assert "1 volume(s) run against the others, such as phantom_002" in err
    assert "position=learned" not in err  # the method uses no positions


def test_pretraining_by_learned_positions_keeps_those_that_it_began_with(
    copied: Path, tmp_path: Path, poscon: Run
) -> None:
    align(copied)
    run = tmp_path / "run"
    given = ("-s", "position=learned", "-s", "loss.threshold=12", "--epochs", 1)
    code, _, err = poscon("pretrain", copied, run, *given, *TINY)
    assert code == 0, err
    kept = {entry["id"]: entry["axis"] for entry in json.loads((run / "cases.json").read_text())}
    assert kept.keys() == {case.id for case in Store(copied).cases}
    assert all(axis["first"] != axis["last"] for axis in kept.values())


def test_a_pretraining_places_its_own_volumes_if_the_store_is_not_aligned(
    store: Path, tmp_path: Path, poscon: Run
) -> None:
    run, before = tmp_path / "run", (store / "manifest.json").read_bytes()
    (tmp_path / "left_out.txt").write_text("phantom_004\n")
    given = ("-s", "position=learned", "-s", "loss.threshold=12", "--epochs", 1)
    left_out = ("--exclude", tmp_path / "left_out.txt")
    code, _, err = poscon("pretrain", store, run, *given, *TINY, *left_out)
    assert code == 0, err
    kept = {entry["id"]: entry["axis"] for entry in json.loads((run / "cases.json").read_text())}
    assert len(kept) == 4
    assert "phantom_004" not in kept
    assert (store / "manifest.json").read_bytes() == before
    # they are those of a store that has no other volumes
    opened = Store(store)
    cases = [case for case in opened.cases if case.id in kept]
    assert {name: AxisRecord(**axis) for name, axis in kept.items()} == place_cases(
        opened, cases, 0
    ).axis


def test_finetuning_by_learned_positions_needs_an_aligned_store(
    store: Path, tmp_path: Path, poscon: Run
) -> None:
    given = ("--method", "supervised-pcl", "-s", "position=learned", "-s", "loss.threshold=12")
    code, _, err = poscon("finetune", store, tmp_path / "run", *given, "--labelled", 2)
    assert code == 2
    assert "use poscon align first" in err
    assert not (tmp_path / "run").exists()


def test_where_all_slices_are_alike_the_positions_are_those_in_the_scan(
    copied: Path, monkeypatch: pytest.MonkeyPatch, poscon: Run
) -> None:
    monkeypatch.setattr(
        "poscon.store.placing.thumbnails", lambda stack: np.zeros((len(stack), 256))
    )
    code, out, _ = poscon("align", copied)
    assert code == 0
    assert "the images do not say where the volumes lie: slices are too alike" in out
    axes = [case.axis for case in Store(copied).cases]
    assert all(axis is not None and axis.last > axis.first for axis in axes)


def test_too_few_subjects_a_url_and_no_store_are_refused(scans: Path, tmp_path: Path) -> None:
    few = Path(shutil.copytree(scans, tmp_path / "few"))
    dataset = json.loads((few / "dataset.json").read_text())
    dataset["training"] = dataset["training"][:2]
    (few / "dataset.json").write_text(json.dumps(dataset))
    for file in sorted((few / "imagesTr").iterdir())[2:]:
        file.unlink()
        (few / "labelsTr" / file.name).unlink()
    prepare(few, tmp_path / "two", spacing=6.0, processes=1)
    with pytest.raises(PosconError, match=r"2 subject\(s\).* at least 3"):
        align(tmp_path / "two")
    with pytest.raises(PosconError, match="copy it there afterwards"):
        align("s3://bucket/store")
    with pytest.raises(PosconError, match="not a store"):
        align(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_hearts_that_run_from_base_to_apex_are_found(shared_data: Path, tmp_path: Path) -> None:
    """The labels of the M&Ms say which volumes run against the others; the images do too."""
    prepare(shared_data / "mms", tmp_path / "store", processes=1)
    found = align(tmp_path / "store").axis
    turned = {case.id for case in Store(tmp_path / "store").cases if found[case.id].against}
    subjects = {name.split("_")[0] for name in turned}
    assert subjects == {"A0S9V9", "A1E9Q1", "A4B5U4", "B8J7R4", "C6J5P1"}
    assert len(turned) == 10
    axes = {case.id: found[case.id] for case in Store(tmp_path / "store").cases}
    assert all((axis.first > axis.last) == axis.against for axis in axes.values())


def test_hearts_are_not_put_where_chests_are_alike(shared_data: Path, tmp_path: Path) -> None:
    """The chests of ACDC lead astray; all its stacks begin at the base of the heart."""
    prepare(shared_data / "acdc", tmp_path / "store", spacing=3.0)
    found = align(tmp_path / "store")
    assert not found.by_images
    assert all(axis.first < axis.last for axis in found.axis.values())
    assert found.against is None
