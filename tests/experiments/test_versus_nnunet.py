"""The comparison with nnU-Net, without nnU-Net: a script stands in for it."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import versus_nnunet
from versus_nnunet import Found, drawn_subjects, rows_of, settings_of, table, write_raw

import poscon
from poscon.errors import PosconError
from poscon.store.store import Store
from poscon.training.roles import Selection, choose_roles
from poscon.volumes.case import Channel, LabelClass, LabelScheme
from poscon.volumes.layouts import read_dataset

MINUTES = 0.25
TEST = ["phantom_003"]

STAND_IN = """
import json, os, shutil, sys
from pathlib import Path

stage, *rest, about = sys.argv[1:]
found = {"seconds": 3.0}
if stage == "train":
    found |= {"iterations": 50, "batch": 9, "threads": os.environ["OMP_NUM_THREADS"]}
    found |= {"cores": len(os.sched_getaffinity(0)), "results": os.environ["nnUNet_results"]}
if stage == "predict":
    for scan in Path(rest[1]).iterdir():
        name = scan.name.replace("_0000", "")
        shutil.copyfile(Path("LABELS") / name, Path(rest[2]) / name)
Path(about).write_text(json.dumps(found))
"""


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the script in this process; gives exit code, stdout and stderr."""

    def called(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            versus_nnunet.main(list(map(str, arguments)))
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.fixture
def stand_in(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in place of nnunet_side.py, whose predictions are the references."""
    monkeypatch.setattr(versus_nnunet, "HERE", tmp_path)
    monkeypatch.setattr(versus_nnunet, "nnunet_versions", lambda _: {"nnunetv2": "2.0"})
    monkeypatch.setattr(versus_nnunet, "TEST", tmp_path / "test.txt")
    monkeypatch.setattr(
        versus_nnunet, "SETTINGS", ["network.width=4", "network.levels=2", "size=32", "batch=4"]
    )
    train = poscon.finetune

    def trained(*places: Path, minutes: float, **how: Any) -> Path:
        assert minutes == MINUTES
        return train(*places, iterations=3, **how)  # how many fit depends on the machine

    monkeypatch.setattr(poscon, "finetune", trained, raising=False)
    (tmp_path / "test.txt").write_text("\n".join(TEST) + "\n")
    script = tmp_path / "nnunet_side.py"
    script.write_text(STAND_IN.replace("LABELS", str(scans / "labelsTr")))
    return script


def test_raw_data_set_is_one_of_nnunet(scans: Path, tmp_path: Path) -> None:
    """The reader of poscon finds what went in, to the voxel."""
    dataset = read_dataset(scans)
    assert dataset.labels is not None
    names = dataset.labels.names
    write_raw(tmp_path / "raw", dataset, ["phantom_000", "phantom_004"], TEST)
    found = read_dataset(tmp_path / "raw")
    assert found.layout == "nnunet"
    assert found.labels == dataset.labels
    assert {case.id: case.label is not None for case in found.cases} == {
        "phantom_000": True,
        "phantom_004": True,
        **dict.fromkeys(TEST, False),
    }
    assert not found.notes
    for case in found.cases:
        (own,) = [c for c in dataset.cases if c.id == case.id]
        assert case.image.read_bytes() == own.image.read_bytes()
        assert case.label is None or case.label.read_bytes() == own.label.read_bytes()
    assert json.loads((tmp_path / "raw" / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | {name: i + 1 for i, name in enumerate(names)},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def test_ct_is_called_ct(scans: Path, tmp_path: Path) -> None:
    """nnU-Net normalises by this name."""
    dataset = read_dataset(scans)
    cases = tuple(replace(case, modality="CT") for case in dataset.cases)
    write_raw(tmp_path / "raw", replace(dataset, cases=cases), ["phantom_000"], TEST)
    description = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CT"}


def test_what_nnunet_cannot_read_is_refused(scans: Path, tmp_path: Path) -> None:
    dataset = read_dataset(scans)
    first, *rest = dataset.cases
    channels = (Channel(first.image, 0), Channel(first.image, 1))
    nrrd = replace(first, image=first.image.with_name("phantom_000.nrrd"))
    merged = LabelScheme((LabelClass("all", (1, 2)),))
    for changed, message in (
        (replace(dataset, labels=None), "label values 1, 2"),
        (replace(dataset, labels=merged), "label values 1, 2"),
        (replace(dataset, labels=LabelScheme((LabelClass("b", (2,)),))), "label values 1, 2"),
        (replace(dataset, cases=(replace(first, channels=channels), *rest)), "one 3-D image"),
        (replace(dataset, cases=(replace(first, frame_index=0), *rest)), "one 3-D image"),
        (replace(dataset, cases=(nrrd, *rest)), r"a \.nii\.gz file is needed"),
    ):
        with pytest.raises(PosconError, match=message):
            write_raw(tmp_path / "raw", changed, [first.subject], TEST)


@pytest.mark.parametrize("seed", range(4))
def test_subjects_are_those_that_finetune_draws(store: Path, seed: int) -> None:
    opened = Store(store)
    roles = choose_roles(opened, Selection(exclude=TEST, labelled=2), seed, pretrained=False)
    drawn = drawn_subjects(opened, TEST, 2, seed)
    assert drawn == sorted({case.subject for case in roles["labelled"]})
    assert len(drawn) == 2
    assert not set(drawn) & set(TEST)


@pytest.mark.usefixtures("stand_in")
def test_whole_comparison(
    call: Callable[..., tuple[int, str, str]], scans: Path, store: Path, tmp_path: Path
) -> None:
    """Every training once, the table, and nothing again."""
    before = os.sched_getaffinity(0), torch.get_num_threads()
    out = tmp_path / "out"
    interrupted = out / f"nnU-Net-{MINUTES:g}" / "left over"
    interrupted.mkdir(parents=True)
    shutil.copytree(store, out / "store")
    arguments = (scans, out, "--minutes", MINUTES, "--labelled", "2", "--seed", "1")
    code, printed, _ = call(*arguments, "--nnunet-python", sys.executable)
    assert code == 0
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before
    assert not interrupted.exists()
    assert printed.strip() == (out / "versus.md").read_text().strip()
    lines = [line for line in printed.splitlines() if line.startswith(f"| {MINUTES:g} | ")]
    assert [line.split(" | ")[1] for line in lines] == [
        "nnU-Net",
        "poscon, supervised",
        "poscon, fixmatch",
    ]
    assert all(line.split(" | ")[-3] == "3" for line in lines[1:])
    assert "1.000 [-inf, inf]" in lines[0]  # one subject
    assert lines[0].endswith("|  |  | 50 | 3 | 3 |")

    settings = json.loads((out / "settings.json").read_text())
    assert settings["labelled subjects"] == drawn_subjects(Store(out / "store"), TEST, 2, 1)
    told = json.loads((out / f"nnU-Net-{MINUTES:g}" / "training.json").read_text())
    assert (told["threads"], told["cores"]) == ("1", 1)
    assert told["results"] == str(out / f"nnU-Net-{MINUTES:g}" / "results")
    of_ours = {}
    for method in ("supervised", "fixmatch"):
        run = out / f"poscon-{method}-{MINUTES:g}" / "run"
        of_ours[method] = json.loads((run / "cases.json").read_text())
        seen = {case["subject"] for case in of_ours[method]}
        assert not seen & set(TEST)
        labelled = {c["subject"] for c in of_ours[method] if c["role"] == "labelled"}
        assert sorted(labelled) == settings["labelled subjects"]
    assert len(of_ours["supervised"]) == 2
    assert len(of_ours["fixmatch"]) == 4

    with (out / "versus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = read_dataset(scans).labels.names  # type: ignore[union-attr]
    assert len(rows) == 3 * len(TEST) * len(classes)
    assert {row["subject"] for row in rows} == set(TEST)

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.parent != out}
    assert call(*arguments, "--nnunet-python", sys.executable)[:2] == (0, printed)
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.parent != out}

    code, _, told_wrong = call(*arguments[:-1], "2", "--nnunet-python", sys.executable)
    assert code == 2
    assert "this comparison was begun with" in told_wrong
    assert "choose another folder" in told_wrong


def test_failure_of_nnunet_is_one_line(
    call: Callable[..., tuple[int, str, str]],
    stand_in: Path,
    scans: Path,
    store: Path,
    tmp_path: Path,
) -> None:
    stand_in.write_text("raise ValueError('no time')")
    shutil.copytree(store, tmp_path / "out" / "store")
    arguments = (scans, tmp_path / "out", "--labelled", "2", "--nnunet-python", sys.executable)
    code, _, told = call(*arguments)
    assert code == 2
    *_, last = told.strip().splitlines()
    assert last.startswith("error: ")
    assert last.endswith("nnU-Net failed to prepare; its last line is: ValueError: no time")


def test_python_without_nnunet_is_refused(
    call: Callable[..., tuple[int, str, str]], scans: Path, tmp_path: Path
) -> None:
    for python, message in (
        (tmp_path / "python", "cannot be run (No such file or directory)"),
        ("/bin/false", "has no nnunetv2"),
    ):
        code, _, told = call(scans, tmp_path / "out", "--nnunet-python", python)
        assert code == 2
        assert told.startswith(f"error: --nnunet-python {python}: {message}")
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "ten"])
def test_minutes_are_numbers(
    minutes: str, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, told = call(tmp_path, tmp_path / "out", "--minutes", minutes)
    assert code == 2
    assert "is no number of minutes" in told


def rows(dice: dict[tuple[str, str], str]) -> list[dict[str, str]]:
    return [
        {"subject": subject, "class": name, "dice": value, "hd95_mm": value and "2.0"}
        for (subject, name), value in dice.items()
    ]


def test_table_has_means_over_subjects() -> None:
    """A class that is not measured in a subject does not count for it."""
    about = {"iterations": 40, "seconds": 61.0, "batch": 8, "patch": [5, 4]}
    nnunet = Found(
        "nnU-Net",
        1.0,
        about,
        {"seconds": 12.4},
        rows({("x", "A"): "0.5", ("x", "B"): "0.7", ("y", "A"): "0.8", ("y", "B"): ""}),
    )
    ours = replace(
        nnunet,
        name="poscon, supervised",
        rows=rows({("x", "A"): "0.6", ("x", "B"): "0.8", ("y", "A"): "0.8", ("y", "B"): ""}),
    )
    later = replace(ours, minutes=2.5)
    head, _, first, second, third = table([nnunet, ours, later]).splitlines()
    assert "| A | B | lowest subject |" in head
    assert first.startswith(
        "| 1 | nnU-Net | 0.700 [-0.571, 1.971] | 0.650 | 0.700 | 0.600 | 2.00 |"
    )
    assert first.endswith("|  |  | 40 | 61 | 12 |")
    assert "| 0.750 [" in second
    assert "| +0.050 [-0.585, +0.685] | 1 |" in second
    assert third.startswith("| 2.5 |")
    assert third.endswith("|  |  | 40 | 61 | 12 |")
    for line in (first, second, third):
        assert line.count("|") == head.count("|")
    assert rows_of([nnunet]).splitlines()[:2] == [
        "minutes,trained,subject,class,dice,hd95_mm",
        "1,nnU-Net,x,A,0.5,2.0",
    ]
    assert settings_of([nnunet], {"seed": 3, "labelled": ["a", "b"]}).splitlines() == [
        "- seed: 3",
        "- labelled: a b",
        "- nnU-Net, 1 minutes: batch 8, patch 5 4",
    ]
