"""BIDS."""

from pathlib import Path

import pytest
from layout_examples import labelled, put, put_bids

from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset


@pytest.mark.parametrize(
    "label",
    [
        "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_T1w_dseg.nii.gz",
        "derivatives/sub-01/anat/sub-01_desc-manual_dseg.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_space-orig_atlas-x_dseg.nii.gz",
        "sub-01/anat/sub-01_T1w_dseg.nii.gz",
    ],
)
def test_bids(tmp_path: Path, label: str) -> None:
    put(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")
    put(tmp_path, label)
    passed_over = [
        "derivatives/prep/sub-01/anat/sub-01_space-MNI152_dseg.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_label-GM_probseg.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
    ]
    put(tmp_path, *passed_over)
    dataset = read_dataset(tmp_path)
    found = [(case.id, case.subject, case.label) for case in dataset.cases]
    assert found == [
        ("sub-01_T1w", "sub-01", tmp_path / label),
        ("sub-02_ses-1_T1w", "sub-02", None),
    ]
    (line,) = dataset.passed_over
    assert line.startswith("passed over: 4 scan file(s) not read: ")


def test_bids_tables_name_the_classes(tmp_path: Path) -> None:
    put_bids(tmp_path)
    table = tmp_path / "derivatives" / "manual" / "desc-x_dseg.tsv"
    table.write_text("index\tname\n0\tbackground\n4\tGM\n2\tWM\n")
    labels = read_dataset(tmp_path).labels
    assert labels is not None
    assert (labels.names, labels.values) == (("GM", "WM"), (4, 2))
    table.write_text("index\tname\n1\tGM\n1\tWM\n")
    with pytest.raises(PosconError, match=r"x_dseg\.tsv: the label value 1 occurs twice"):
        read_dataset(tmp_path)


def test_bids_segmentations_that_contradict_each_other(tmp_path: Path) -> None:
    put_bids(tmp_path)
    put(tmp_path, "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(PosconError, match=r"sub-01_T1w\.nii\.gz: two segmentations"):
        read_dataset(tmp_path)


def test_bids_a_segmentation_of_one_of_two_scans(tmp_path: Path) -> None:
    put(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/m/sub-01/anat/sub-01_dseg.nii.gz")
    put(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz", spacing=(1, 1, 5))
    assert labelled(read_dataset(tmp_path)) == ["sub-01_T1w"]  # by its grid
    put(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    with pytest.raises(PosconError, match=r"may belong to sub-01_T1w.*or to sub-01_T2w"):
        read_dataset(tmp_path)
