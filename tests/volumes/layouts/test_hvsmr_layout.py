"""HVSMR."""

from pathlib import Path

from layout_examples import labelled, put_hvsmr

from poscon.volumes.layouts import read_dataset


def test_hvsmr(tmp_path: Path) -> None:
    put_hvsmr(tmp_path)
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["training_sa_crop_pat0", "training_sa_crop_pat9"]
    assert [case.subject for case in dataset.cases] == ["pat0", "pat9"]
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("MYO", "BP"), (1, 2))
    assert dataset.preparation == {"spacing": 0.7}
