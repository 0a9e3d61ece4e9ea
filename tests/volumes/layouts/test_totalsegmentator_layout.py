"""TotalSegmentator."""

from pathlib import Path

from layout_examples import put_totalsegmentator

from poscon.volumes.layouts import read_dataset


def test_totalsegmentator(tmp_path: Path) -> None:
    put_totalsegmentator(tmp_path)
    dataset = read_dataset(tmp_path)
    assert [(case.id, case.modality) for case in dataset.cases] == [
        ("s0001", "CT"),
        ("s0002", "CT"),
        ("s0003", "MR"),
    ]
    assert dataset.cases[0].label == tmp_path / "s0001" / "segmentations"
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("liver", "spleen"), (1, 2))
    assert dataset.passed_over == ()
