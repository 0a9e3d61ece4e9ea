"""References of which only some slices count, from the command line to the measures."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.evaluate import evaluate
from poscon.evaluation.results import Counted, Evaluation

SPACING = (1.5, 1.5, 8.0)
Run = Callable[..., tuple[int, str, str]]


def heart() -> np.ndarray:
    """Three classes in the slices 1 and 2 of 5."""
    labels = np.zeros((8, 8, 5), np.uint8)
    labels[1:3, 1:5, 1:3] = 1
    labels[4:7, 2:6, 1:3] = 2
    labels[5:6, 3:5, 1:3] = 3
    return labels


def predicted() -> np.ndarray:
    """Wrong in every slice, and in each another number of voxels."""
    labels = heart()
    for number in range(5):
        labels[: number + 1, 6, number] = 1
    labels[4, 3, 2] = 1
    return labels


def save(path: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([*SPACING, 1]) if affine is None else affine), path)
    return path


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["case,slice", *rows]) + "\n")
    return path


def without(labels: np.ndarray, *numbers: int) -> np.ndarray:
    """The label map with the value 9 in these slices."""
    labels = labels.copy()
    labels[:, :, list(numbers)] = 9
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references of a and b."""
    for name in "ab":
        save(tmp_path / "p" / f"{name}.nii.gz", predicted())
        save(tmp_path / "r" / f"{name}.nii.gz", heart())
    return tmp_path / "p", tmp_path / "r"


def same(one: Evaluation, other: Evaluation) -> None:
    assert one.rows == other.rows
    assert (one.counted, one.unlabelled) == (other.counted, other.unlabelled)
    assert one.not_annotated == other.not_annotated


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_slice_that_is_not_listed_is_ignored(
    tmp_path: Path, order: tuple[int, int, int], backwards: bool
) -> None:
    """Whichever axis has the slices, and whichever way they run: the numbers are the file's."""
    affine = np.diag([*SPACING, 1.0])
    affine[2, 2] *= -1 if backwards else 1
    affine = affine[:, [*order, 3]]
    a = save(tmp_path / "a.nii", predicted().transpose(order), affine)
    whole = save(tmp_path / "whole.nii", heart().transpose(order), affine)
    sparse = save(tmp_path / "sparse.nii", without(heart(), 0, 3, 4).transpose(order), affine)
    listed = evaluate(a, whole, labelled_slices=table(tmp_path / "t.csv", "a,2", "a,1"))
    same(listed, evaluate(a, sparse, ignore_label=9))
    assert listed.counted == Counted(slices=2, of_slices=5, cases=1)
    # by hand: class 1 has 8 voxels in either slice; the prediction adds 2 and 4
    assert listed.rows[0].dice == pytest.approx(2 * 16 / (16 + 16 + 2 + 4))


def test_slices_without_foreground_are_ignored(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "sparse" / f"{name}.nii.gz", without(heart(), 0, 3, 4))
    save(folders[1] / "b.nii.gz", heart() * 0)
    save(tmp_path / "sparse" / "b.nii.gz", np.full_like(heart(), 9))
    found = evaluate(*folders, labelled_slices="nonempty")
    same(found, evaluate(folders[0], tmp_path / "sparse", ignore_label=9))
    assert found.not_annotated == ("b",)


def test_a_table_and_an_ignore_label_go_together(folders: tuple[Path, Path]) -> None:
    ragged = heart()
    ragged[:4, :, 1] = 9
    save(folders[1] / "a.nii.gz", ragged)
    slices = table(folders[0].parent / "t.csv", "a,1", "a,2")
    found = evaluate(*folders, ignore_label=9, labelled_slices=slices)
    save(folders[1] / "a.nii.gz", without(ragged, 0, 3, 4))
    (folders[1] / "b.nii.gz").unlink()
    expected = evaluate(*folders, ignore_label=9)
    assert found.rows == expected.rows
    assert found.unlabelled == expected.unlabelled


def test_the_command_says_how_much_counts(folders: tuple[Path, Path], poscon: Run) -> None:
    slices = table(folders[0].parent / "t.csv", "a,1", "a,2")
    arguments = ("evaluate", *folders, "--labelled-slices", slices)
    code, out, _ = poscon(*arguments)
    said = " ".join(out.split())
    assert code == 0
    assert "2 of 5 slices of 1 case(s) count; the references do not label the others" in said
    assert "1 case(s) or frame(s) without annotation: b" in said
    record = json.loads(poscon(*arguments, "--json")[1])
    assert record["counted"] == {"slices": 2, "of_slices": 5, "cases": 1}
    assert record["not_annotated"] == ["b"]
    assert {row["case"] for row in record["cases"]} == {"a"}


def test_the_table_of_suggest_is_read_in_the_numbers_of_the_files(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "next.csv").write_text("case,slice,file_slice\na,3,1\n")
    found = evaluate(*folders, labelled_slices=tmp_path / "next.csv")
    same(found, evaluate(*folders, labelled_slices=table(tmp_path / "t.csv", "a,1")))


def test_a_frame_of_a_series_is_a_case_of_the_table(tmp_path: Path) -> None:
    """A frame that the table names is annotated, also if its slices are empty."""
    a = save(tmp_path / "a.nii.gz", np.stack([predicted()] * 3, -1))
    b = save(tmp_path / "b.nii.gz", np.stack([heart(), heart() * 0, heart()], -1))
    slices = table(tmp_path / "t.csv", "a_frame01,1", "a_frame02,0")
    found = evaluate(a, b, labelled_slices=slices)
    assert [row.case for row in found.rows] == ["a_frame01"] * 3 + ["a_frame02"] * 3
    assert found.not_annotated == ("a_frame03",)
    assert found.counted == Counted(slices=2, of_slices=10, cases=2)
    assert found.rows[3].dice == 0


def test_cases_of_a_data_set(tmp_path: Path) -> None:
    """Frames in files of their own, with a voxel size that the data set states."""
    folder = tmp_path / "d" / "A1B2C3"
    for frame in ("ED", "ES"):
        save(folder / f"A1B2C3_sa_{frame}.nii.gz", np.ones((8, 8, 5), np.uint8), np.eye(4))
        save(folder / f"A1B2C3_sa_{frame}_gt.nii.gz", heart(), np.eye(4))
        save(tmp_path / "p" / f"A1B2C3_sa_{frame}.nii.gz", predicted(), np.eye(4))
    slices = table(tmp_path / "t.csv", "A1B2C3_sa_ES,1")
    found = evaluate(tmp_path / "p", tmp_path / "d", labelled_slices=slices)
    assert {row.case for row in found.rows} == {"A1B2C3_sa_ES"}
    assert found.counted == Counted(slices=1, of_slices=5, cases=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["z,0"], "there is no case 'z' among those of"),
        (["a_frame01,0"], "there is no case 'a_frame01' among those of"),
        (["a,1", "b,5"], "case b has no slice 5, its slices are 0 to 4"),
        (["a,1", "b,"], "line 3: '' is no slice number"),
        ([], "names no slice"),
        (["c,0"], "names no slice of a case that was predicted; there is nothing to evaluate"),
    ],
)
def test_tables_that_are_refused(
    folders: tuple[Path, Path], poscon: Run, rows: list[str], message: str
) -> None:
    save(folders[1] / "c.nii.gz", heart())
    slices = table(folders[0].parent / "t.csv", *rows)
    out = folders[0].parent / "results"
    code, printed, err = poscon("evaluate", *folders, "--labelled-slices", slices, "--out", out)
    assert (code, printed) == (2, "")
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {slices}")
    assert message in line
    assert not list(out.parent.glob("results*"))


def test_nonempty_beside_an_ignore_label_is_refused(
    folders: tuple[Path, Path], poscon: Run
) -> None:
    options = ("--labelled-slices", "nonempty", "--ignore-label", 9)
    code, _, err = poscon("evaluate", *folders, *options)
    assert code == 2
    assert "the label 9 says already what is not labelled" in err
