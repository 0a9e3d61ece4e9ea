"""Ranges in a store: from the file's slices to those of the store, and what contradicts them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.inspect import inspect, inspection_record
from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.store.manifest import SCHEMA_VERSION
from poscon.store.store import Store
from poscon.store.weak_labels import add_ranges, possible_classes, ranges_line
from poscon.volumes.ranges import Ranges

SLICES = 6


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two labelled scans of 6 slices, of which ``down`` runs downwards, and an unlabelled one."""
    folder = tmp_path / "scans"
    folder.mkdir()
    labels = np.zeros((8, 8, SLICES), np.uint8)
    labels[2:5, 2:5, 1:4] = 1
    labels[5:7, 5:7, 2] = 2
    for seed, (name, mm) in enumerate({"up": 5.0, "down": -5.0, "bare": -5.0}.items()):
        affine = np.diag([1.0, 1.0, mm, 1.0])
        voxels = np.random.default_rng(seed).normal(size=labels.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"{name}.nii")
        if name != "bare":
            nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_seg.nii")
    return folder


def prepared(scans: Path, rows: str, **options: object) -> Store:
    path = scans.parent / "ranges.csv"
    path.write_text(f"case,class,first,last\n{rows}\n")
    given = {"labels": "1=LV,2=RV", "ranges": path, "processes": 1, **options}
    return prepare(scans, scans.parent / "store", **given)  # type: ignore[arg-type]


def test_ranges_are_kept_in_slices_of_the_store(scans: Path) -> None:
    store = prepared(scans, "up,LV,1,3\ndown,LV,1,4\nbare,LV,0,3\nbare,RV,,")
    found = {case.id: dict(case.ranges) for case in store.cases}
    assert found == {
        "up": {"LV": (1, 3)},
        "down": {"LV": (1, 4)},  # 5 - 4 and 5 - 1
        "bare": {"LV": (2, 5), "RV": None},
    }
    assert {case.id: dict(case.ranges) for case in Store(store.path).cases} == found
    assert store.manifest.schema_version == SCHEMA_VERSION
    assert ranges_line(store.cases) == "3 of 3 cases have ranges of structures"


def test_a_reversed_scan(scans: Path) -> None:
    store = prepared(scans, "up,LV,0,3\nbare,LV,0,3", reverse=["up", "bare"])
    assert {case.id: dict(case.ranges) for case in store.cases if case.ranges} == {
        "up": {"LV": (2, 5)},
        "bare": {"LV": (0, 3)},
    }


def test_a_store_without_ranges_says_nothing_of_them(scans: Path) -> None:
    store = prepare(scans, scans.parent / "store", labels="1=LV,2=RV", processes=1)
    assert all(case.ranges == {} for case in store.cases)
    assert ranges_line(store.cases) is None
    assert inspection_record(inspect(store.path))["cases_with_ranges"] == 0


def test_inspect_counts_the_cases(scans: Path) -> None:
    store = prepared(scans, "bare,LV,0,3")
    assert inspection_record(inspect(store.path))["cases_with_ranges"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("up,LV,1,6", r"ranges\.csv, case up: LV ends in slice 6, and the scan has .* 0 to 5$"),
        ("nobody,LV,1,2", r"ranges\.csv: there is no case 'nobody' among those of "),
        ("up,aorta,1,2", r"ranges\.csv, line 2: no class 'aorta'; the classes are LV, RV$"),
        ("up,LV,?,?", r"ranges\.csv, line 2: .* must be filled in"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    scans: Path, rows: str, message: str
) -> None:
    with pytest.raises(PosconError, match=message):
        prepared(scans, rows)
    assert not (scans.parent / "store").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("up,LV,2,3", "case up: says that LV is in slices 2 to 3 only, but .* has it in slice 1;"),
        (
            "down,LV,1,2",
            "case down: says that LV is in slices 1 to 2 only, but .* has it in slice 3;",
        ),
        ("up,RV,,", "case up: says that RV is not there, but the label map has it in slice 2;"),
    ],
)
def test_a_label_map_that_contradicts(scans: Path, rows: str, message: str) -> None:
    with pytest.raises(PosconError, match=message):
        prepared(scans, rows)
    assert not (scans.parent / "store" / "manifest.json").exists()
    assert prepared(scans, "up,LV,0,5").cases[2].ranges == {"LV": (0, 5)}  # corrected


def test_only_labelled_slices_contradict(scans: Path) -> None:
    (scans.parent / "slices.csv").write_text("case,slice\nup,0\nup,1\n")
    table = scans.parent / "slices.csv"
    store = prepared(scans, "up,LV,1,2\nup,RV,,", labelled_slices=table)
    assert store.cases[2].ranges == {"LV": (1, 2), "RV": None}


def test_ranges_without_any_label_map(scans: Path) -> None:
    for path in scans.glob("*_seg.nii"):
        path.unlink()
    with pytest.raises(PosconError, match="--ranges has no effect, no case has a label map"):
        prepared(scans, "up,LV,1,2", labels=None)


def test_new_ranges_replace_earlier_ones_of_the_same_class(scans: Path) -> None:
    store = prepared(scans, "bare,LV,0,3\nbare,RV,,")
    new: Ranges = {"bare": {"RV": (1, 1)}}
    changed = add_ranges(store.manifest, new, store.label, where="new.csv")
    assert changed.cases[0].ranges == {"LV": (2, 5), "RV": (4, 4)}
    assert changed.cases[1:] == store.manifest.cases[1:]
    with pytest.raises(PosconError, match=r"new\.csv, case up: says that RV is not there"):
        add_ranges(store.manifest, {"up": {"RV": None}}, store.label, where="new.csv")
    with pytest.raises(PosconError, match=r"no case 'nobody' among those of the store"):
        add_ranges(store.manifest, {"nobody": {"RV": None}}, store.label, where="new.csv")


def test_possible_classes(scans: Path) -> None:
    case = prepared(scans, "bare,LV,2,3").cases[0]
    possible = possible_classes(case, ("LV", "RV"))
    assert possible.shape == (SLICES, 3)
    assert possible[:, [0, 2]].all()  # background, and a class without a range
    assert possible[:, 1].tolist() == [False, False, True, True, False, False]  # it runs downwards
    case = prepared_again(scans, "bare,LV,,").cases[0]
    assert not possible_classes(case, ("LV", "RV"))[:, 1].any()


def prepared_again(scans: Path, rows: str) -> Store:
    (scans.parent / "store").rename(scans.parent / "first")
    return prepared(scans, rows)
