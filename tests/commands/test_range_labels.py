"""Ranges as weak labels, from the command line to the training."""

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.finetuning.fixmatch import FixMatch
from poscon.store.manifest import MANIFEST

SHAPE = (16, 16, 6)
TINY = [
    *("network.width=4", "network.levels=2", "size=16", "batch=4", "loss.ramp_up=[0,0]"),
    "loss.threshold=0.6",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three scans, of which the first has a label map, and a file with ranges of the others."""
    folder = tmp_path / "scans"
    folder.mkdir()
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 3:9, 1:4] = 1
    for seed, name in enumerate("abc"):
        voxels = np.random.default_rng(seed).normal(0, 1, SHAPE) + 3 * labels
        affine = np.diag([1.0, 1.0, 5.0, 1.0])
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), folder / f"{name}.nii")
    nib.save(nib.Nifti1Image(labels, affine), folder / "a_seg.nii")
    (tmp_path / "ranges.csv").write_text("case,class,first,last\nb,class_1,1,3\nc,class_1,,\n")
    return folder


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_line(
    source: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    store, ranges = tmp_path / "store", tmp_path / "ranges.csv"
    code, out, _ = poscon("prepare", source, store, "--ranges", ranges)
    assert code == 0
    assert "2 of 3 cases have ranges of structures" in out
    code, out, _ = poscon("inspect", store)
    assert code == 0
    assert "2 of 3 cases have ranges of structures" in out


def test_a_mistake_is_one_line_and_nothing_is_written(
    source: Path, tmp_path: Path, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    ranges = tmp_path / "ranges.csv"
    ranges.write_text("case,class,first,last\nd,class_1,1,3\n")
    code, out, err = poscon("prepare", source, tmp_path / "store", "--ranges", ranges)
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"error: {ranges}: there is no case 'd' among those of {source}"]
    assert not (tmp_path / "store").exists()


def test_fixmatch_learns_from_ranges_and_the_run_says_which(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(source, tmp_path / "plain", processes=1)
    prepare(source, tmp_path / "ranges", ranges=tmp_path / "ranges.csv", processes=1)
    found = {}
    for name in ("plain", "ranges"):
        run = tmp_path / f"run-{name}"
        finetune(tmp_path / name, run, method="fixmatch", iterations=4, settings=TINY)
        found[name] = float(rows(run)[-1]["confident"])
    assert found["ranges"] > found["plain"]  # all of c is known to be background
    assert "ranges" not in capsys.readouterr().err
    entries = {e["id"]: e for e in json.loads((tmp_path / "run-ranges/cases.json").read_text())}
    assert "ranges" not in entries["a"]
    assert entries["b"]["ranges"] == {"class_1": [1, 3]}
    assert entries["c"]["ranges"] == {"class_1": None}


def test_a_resumed_run_keeps_the_ranges_that_it_began_with(
    source: Path, tmp_path: Path, power_cut: Callable[..., AbstractContextManager[None]]
) -> None:
    store = tmp_path / "store"
    prepare(source, store, ranges=tmp_path / "ranges.csv", processes=1)
    settings = [*TINY, "checkpoint_every=2"]
    whole = finetune(store, tmp_path / "w", method="fixmatch", iterations=4, settings=settings)
    with power_cut(FixMatch, 3):
        finetune(store, tmp_path / "b", method="fixmatch", iterations=4, settings=settings)
    content = json.loads((store / MANIFEST).read_text())
    for case in content["cases"]:
        case["ranges"] = {}
    (store / MANIFEST).write_text(json.dumps(content))
    resumed = finetune(store, tmp_path / "b", resume=True)
    a, b = load_file(whole), load_file(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["supervised", "mean-teacher"])
def test_a_method_that_does_not_use_ranges_says_so(
    source: Path, tmp_path: Path, method: str, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    store = tmp_path / "store"
    prepare(source, store, ranges=tmp_path / "ranges.csv", processes=1)
    settings = [part for key in TINY[:4] for part in ("-s", key)]
    options = ("--method", method, "--iterations", 1, *settings)
    code, _, err = poscon("finetune", store, tmp_path / "run", *options)
    assert code == 0
    assert (
        f"note: the ranges of 2 case(s) have no effect with method {method}; "
        "fixmatch and unimatch use them"
    ) in " ".join(err.split())
