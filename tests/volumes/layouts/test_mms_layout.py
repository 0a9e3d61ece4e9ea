"""M&Ms."""

from pathlib import Path

import pytest
from layout_examples import labelled, put_mms

from poscon.volumes.layouts import read_dataset


@pytest.mark.parametrize("home", ["", "vendor_A"])
def test_mms(tmp_path: Path, home: str) -> None:
    put_mms(tmp_path / home, spacing=(1, 1, 1))
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["A0S9V9_sa_ED", "A0S9V9_sa_ES", "B3F0V9_sa_ED", "B3F0V9_sa_ES"]
    assert [case.frame for case in dataset.cases] == ["ED", "ES"] * 2
    assert {case.subject for case in dataset.cases} == {"A0S9V9", "B3F0V9"}
    assert {case.spacing for case in dataset.cases} == {(1.25, 1.25, 10.0)}
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("RV", "MYO", "LV"), (3, 2, 1))
    notes = " ".join(dataset.notes)
    assert "nominal" in notes
    assert "slice order is mixed" in notes


def test_mms_believes_a_header_that_has_a_spacing(tmp_path: Path) -> None:
    put_mms(tmp_path)
    dataset = read_dataset(tmp_path)
    assert {case.spacing for case in dataset.cases} == {None}
    assert "nominal" not in " ".join(dataset.notes)
