"""Nothing below a folder is left out without being named."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.volumes.layouts import read_dataset
from poscon.volumes.layouts.tree import walk


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".nii.gz"):
            nib.save(nib.Nifti1Image(np.zeros((3, 4, 2), np.int16), np.eye(4)), path)
        else:
            path.write_text("text")


def names(root: Path) -> list[str]:
    return [case.id for case in read_dataset(root).cases]


def test_linked_files_and_folders_are_read(tmp_path: Path) -> None:
    put(tmp_path, "disk/b.nii.gz", "disk/c.nii.gz", "scans/a.nii.gz")
    (tmp_path / "scans" / "more").symlink_to(tmp_path / "disk")
    assert names(tmp_path / "scans") == ["a", "b", "c"]
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "d.nii.gz").symlink_to(tmp_path / "disk" / "b.nii.gz")
    assert names(tmp_path / "single") == ["d"]
    assert read_dataset(tmp_path / "single").passed_over == ()


def test_a_loop_of_folders_ends_and_is_named(tmp_path: Path) -> None:
    put(tmp_path, "x/a.nii.gz")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "x")
    assert names(tmp_path) == ["a"]
    (line,) = read_dataset(tmp_path).passed_over
    assert line == (
        "passed over: 2 out of reach, a link to a folder that is read already: again, x/loop"
    )


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    put(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz")
    (tmp_path / "labels" / "b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    dataset = read_dataset(tmp_path)
    assert [case.label is None for case in dataset.cases] == [False, True]
    assert dataset.passed_over == (
        "passed over: 2 out of reach, a link to nothing: labels/b.nii.gz, more",
    )


@pytest.mark.parametrize("closed", ["folder", "file"])
def test_what_may_not_be_read_is_named(
    tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is played."""
    put(tmp_path, "a.nii.gz", "closed/b.nii.gz", "closed.nii.gz")
    there, access = Path.iterdir, os.access

    def iterdir(folder: Path) -> object:
        if closed == "folder" and folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return there(folder)

    def permitted(path: Path, mode: int) -> bool:
        return access(path, mode) and not (closed == "file" and Path(path).name == "closed.nii.gz")

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(os, "access", permitted)
    (line,) = read_dataset(tmp_path).passed_over
    expected = {
        "folder": "passed over: 1 out of reach, Permission denied: closed",
        "file": "passed over: 1 out of reach, no permission to read it: closed.nii.gz",
    }
    assert line == expected[closed]
    assert len(names(tmp_path)) == 2


def test_other_kinds_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", *(f"slices/{i}.dcm" for i in range(7)), "notes.txt", "README")
    put(tmp_path, ".DS_Store", ".cache/b.nii.gz", "dataset.json")
    (tmp_path / "dataset.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    assert read_dataset(tmp_path).passed_over == (
        "passed over: 7 file(s) of another kind (.dcm): slices/0.dcm, slices/1.dcm, slices/2.dcm, "
        "slices/3.dcm, slices/4.dcm, ...",
        "passed over: 1 file(s) of another kind (.txt): notes.txt",
        "passed over: 2 hidden: .DS_Store, .cache",
        "passed over: 1 out of reach, neither a file nor a folder: pipe.nii.gz",
    )


def test_scan_files_of_another_ending_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "dataset.json")
    (tmp_path / "imagesTr" / "b_0000.nii").write_bytes(b"other ending")
    text = '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}}'
    (tmp_path / "dataset.json").write_text(text)
    dataset = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["a"]
    assert dataset.passed_over == ("passed over: 1 scan file(s) not read: imagesTr/b_0000.nii",)


def test_everything_is_in_one_of_the_lists(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "b/c.txt", ".d/e.nii.gz")
    tree = walk(tmp_path)
    assert [path.name for path in tree.files] == ["a.nii.gz", "c.txt"]
    assert [path.name for path in tree.hidden] == [".d"]
    assert tree.unreachable == ()
