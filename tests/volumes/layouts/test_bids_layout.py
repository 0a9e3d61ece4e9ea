"""BIDS."""

from pathlib import Path

import pytest
from layout_examples import ids, labelled, put, put_bids

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


def test_bids_sessions_and_several_contrasts(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        stem = f"sub-01_{session}"
        put(tmp_path, *(f"sub-01/{session}/anat/{stem}_{kind}.nii.gz" for kind in ("T1w", "T2w")))
        put(tmp_path, f"derivatives/m/sub-01/{session}/anat/{stem}_T2w_dseg.nii.gz")
    dataset = read_dataset(tmp_path)
    assert {case.subject for case in dataset.cases} == {"sub-01"}
    assert len(dataset.cases) == 4
    assert labelled(dataset) == ["sub-01_ses-1_T2w", "sub-01_ses-2_T2w"]


@pytest.mark.parametrize("names", ["sub-01_T2w_label-lesion_mask", "sub-01_label-lesion_mask"])
def test_bids_masks_of_one_structure(tmp_path: Path, names: str) -> None:
    put(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz")
    folder = "derivatives/labels/sub-01/anat"
    put(tmp_path, f"{folder}/{names}.nii.gz", f"{folder}/sub-01_desc-brain_mask.nii.gz")
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["sub-01_T2w"]
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("lesion",), (1,))
    put(tmp_path, f"{folder}/sub-01_T2w_label-cord_mask.nii.gz")
    several = read_dataset(tmp_path)
    assert (labelled(several), several.labels) == ([], None)
    (note,) = several.notes
    assert "masks of 2 structures (cord, lesion) are not read" in note
    put(tmp_path, f"{folder}/sub-01_T2w_dseg.nii.gz")
    assert read_dataset(tmp_path).cases[0].label == tmp_path / folder / "sub-01_T2w_dseg.nii.gz"


def test_bids_only_listed_participants_are_read(tmp_path: Path) -> None:
    put_bids(tmp_path)
    everyone = read_dataset(tmp_path)
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\nsub-01\t60\n02\t50\nsub-03\t40\n")
    assert read_dataset(tmp_path) == everyone
    table.write_text("participant_id\tage\nsub-02\t50\n")
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ids(dataset) == ["sub-02_T1w"]
    assert any(
        line.startswith("passed over: 1 scan file(s) of subjects that are not in participants.tsv")
        for line in dataset.passed_over
    )
    for text, message in (
        ("participant_id\nsub-09\n", "lists none of the subjects here, such as sub-01"),
        ("subject\nsub-01\n", "expected the column participant_id"),
        ("", "expected the column participant_id"),
    ):
        table.write_text(text)
        with pytest.raises(PosconError, match=rf"participants\.tsv: {message}"):
            read_dataset(tmp_path)
