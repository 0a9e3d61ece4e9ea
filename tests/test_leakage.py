"""What a model was trained on is found again, under another name and through a start too."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.evaluation.writing import summary_table
from poscon.leakage import describe, note_seen, read_entries, read_seen, roles_by_pixels
from poscon.progress import console


@pytest.fixture(scope="module")
def run(store: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Started from all five phantoms, trained on two, watched on a third."""
    folder = tmp_path_factory.mktemp("leak")
    (folder / "labelled.txt").write_text("phantom_000\nphantom_001\n")
    (folder / "watched.txt").write_text("phantom_002\n")
    settings = ["size=32", "batch=4", "transductive=true"]
    how: dict[str, Any] = {"init": pretrained, "iterations": 1, "settings": settings}
    lists = {"cases": folder / "labelled.txt", "validation": folder / "watched.txt"}
    finetune(store, folder / "run", **lists, **how)
    return folder / "run"


def test_a_run_lists_what_its_start_has_seen(run: Path, pretrained: Path) -> None:
    entries = read_entries(run)
    roles = {(e["id"], e["role"], e["by"]) for e in entries}
    assert roles == {
        ("phantom_000", "labelled", "finetune"),
        ("phantom_001", "labelled", "finetune"),
        ("phantom_002", "validation", "finetune"),
        *((f"phantom_00{i}", "pretrain", "pretrain") for i in range(5)),
    }
    by_pixels = roles_by_pixels(entries)
    assert sorted(by_pixels.values()) == [
        ("labelled", "pretrain"),
        ("labelled", "pretrain"),
        ("pretrain",),
        ("pretrain",),
        ("pretrain", "validation"),
    ]


def turned(source: Path, target: Path) -> None:
    """The same scan with its axes in another order and direction."""
    image = nib.load(source)
    other = nib.orientations.axcodes2ornt(("S", "L", "A"))
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), other)
    nib.save(image.as_reoriented(change), target)


def test_scans_are_found_by_their_pixels(run: Path, scans: Path, tmp_path: Path) -> None:
    """Under another name, turned; a scan with a single other voxel is another scan."""
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(scans / "imagesTr" / "phantom_001.nii.gz", inbox / "alias.nii.gz")
    turned(scans / "imagesTr" / "phantom_004.nii.gz", inbox / "turned.nii.gz")
    image = nib.load(scans / "imagesTr" / "phantom_000.nii.gz")
    data = np.asarray(image.dataobj).copy()
    data[3, 3, 3] += 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), inbox / "other.nii.gz")
    with console.capture() as captured:
        predict(run, inbox, out)
    assert read_seen(out) == {"alias": ("labelled", "pretrain"), "turned": ("pretrain",)}
    assert "2 scan(s) seen in training: alias (labelled, pretrain)" in captured.get()


def test_new_scans_have_no_file_and_no_note(finetuned: Path, scans: Path, tmp_path: Path) -> None:
    scan = nib.load(scans / "imagesTr" / "phantom_000.nii.gz")
    (tmp_path / "in").mkdir()
    nib.save(
        nib.Nifti1Image(np.asarray(scan.dataobj)[:, ::-1], scan.affine, scan.header),
        tmp_path / "in" / "a.nii.gz",
    )
    with console.capture() as captured:
        predict(finetuned, tmp_path / "in", tmp_path / "out")
    assert "seen in training" not in captured.get()
    assert not (tmp_path / "out" / "seen.json").exists()


def test_a_single_scan_is_said_too(run: Path, scans: Path, tmp_path: Path) -> None:
    with console.capture() as captured:
        predict(run, scans / "imagesTr" / "phantom_003.nii.gz", tmp_path / "out.nii.gz")
    assert "seen in training: phantom_003 (pretrain)" in captured.get()
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


def test_what_was_seen_before_an_interruption_is_kept(
    run: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "first.txt").write_text("phantom_000\n")
    predict(run, scans, out, cases=tmp_path / "first.txt")
    assert list(read_seen(out)) == ["phantom_000"]
    predict(run, scans, out, resume=True)
    assert list(read_seen(out)) == [f"phantom_00{i}" for i in range(5)]


def test_evaluation_marks_what_was_seen(run: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(run, scans, out)
    seen = json.loads((out / "seen.json").read_text())
    del seen["cases"]["phantom_004"]  # as if it were new
    (out / "seen.json").write_text(json.dumps(seen))
    evaluation = evaluate(out, scans, tmp_path / "results")
    marks = {row.case: row.seen for row in evaluation.rows}
    assert marks["phantom_000"] == ("labelled", "pretrain")
    assert marks["phantom_002"] == ("pretrain", "validation")
    assert marks["phantom_004"] == ()
    with (tmp_path / "results.csv").open(newline="") as file:
        column = {row["case"]: row["seen"] for row in csv.DictReader(file)}
    assert column["phantom_000"] == "labelled pretrain"
    assert column["phantom_004"] == ""
    record = json.loads((tmp_path / "results.json").read_text())["cases"][0]
    assert record["seen"] == ["labelled", "pretrain"]
    assert "4 scan(s) seen in training" in str(summary_table(evaluation).caption)


def test_a_model_without_its_run_knows_nothing(run: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "run")
    predict(tmp_path / "run", scans, tmp_path / "out")
    assert read_seen(tmp_path / "out") == {}


@pytest.mark.parametrize("option", ["exclude", "validation"])
def test_a_start_that_has_seen_what_is_kept_apart(
    option: str, store: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Refused, before anything is written, unless it is said to be meant; then it is recorded."""
    (tmp_path / "apart.txt").write_text("phantom_003\n")
    how: dict[str, Any] = {"labelled": 2, "iterations": 1, option: tmp_path / "apart.txt"}
    settings = ["size=32", "batch=4"]
    message = r"--init .*1 scan\(s\) seen in training: phantom_003 \(pretrain\).* keeps apart"
    with pytest.raises(PosconError, match=message):
        finetune(store, tmp_path / "run", init=pretrained, settings=settings, **how)
    assert not (tmp_path / "run").exists()
    meant = [*settings, "transductive=true"]
    finetune(store, tmp_path / "run", init=pretrained, settings=meant, **how)
    assert "transductive: true" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(PosconError, match="transductive: has no effect"):
        finetune(store, tmp_path / "other", settings=meant, **how)


def test_a_start_without_them_is_taken(store: Path, tmp_path: Path) -> None:
    (tmp_path / "apart.txt").write_text("phantom_003\n")
    tiny = ["network.width=4", "network.levels=2", "size=32"]
    apart = tmp_path / "apart.txt"
    pretrain(store, tmp_path / "pre", epochs=1, exclude=apart, settings=[*tiny, "batch=16"])
    how: dict[str, Any] = {"labelled": 2, "iterations": 1, "settings": ["size=32", "batch=4"]}
    finetune(store, tmp_path / "run", init=tmp_path / "pre", exclude=apart, **how)


def test_only_a_few_are_named() -> None:
    text = describe({f"c{i}": ("labelled",) for i in range(7)})
    assert text.startswith("7 scan(s) seen in training: c0 (labelled), c1")
    assert "c4 (labelled), ..." in text
    assert "c5" not in text


@pytest.mark.parametrize("content", ["{", "[]", '{"cases": 3}', '{"cases": {"a": 3}}'])
def test_a_damaged_note_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "seen.json").write_text(content)
    with pytest.raises(PosconError, match=r"seen\.json: expected .* remove it"):
        read_seen(tmp_path)


@pytest.mark.parametrize("content", ["{", "3", '[{"role": "labelled"}]'])
def test_a_damaged_list_of_cases_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(content)
    with pytest.raises(PosconError, match=r"cases\.json: damaged"):
        read_entries(tmp_path)


def test_notes_are_added_to(tmp_path: Path) -> None:
    note_seen(tmp_path, "a", ())
    assert not list(tmp_path.iterdir())
    note_seen(tmp_path, "a", ("labelled",))
    note_seen(tmp_path, "b", ("pretrain",))
    assert read_seen(tmp_path) == {"a": ("labelled",), "b": ("pretrain",)}
    note_seen(tmp_path, "a", ())  # made again, by a model that has not seen it
    assert read_seen(tmp_path) == {"b": ("pretrain",)}
