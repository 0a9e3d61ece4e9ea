"""KiTS."""

from pathlib import Path

from layout_examples import ids, labelled, put, put_kits

from poscon.volumes.layouts import read_dataset


def test_kits(tmp_path: Path) -> None:
    put_kits(tmp_path)
    put(tmp_path, "case_00001/segmentations/kidney_instance-1_annotation-1.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["case_00000", "case_00001", "case_00210"]
    assert labelled(dataset) == ["case_00000", "case_00001"]
    assert {case.modality for case in dataset.cases} == {"CT"}
    assert any("annotation-1" in line for line in dataset.passed_over)
