"""CHD."""

from pathlib import Path

import numpy as np
from layout_examples import ids, labelled, put_chd

from poscon.volumes.layouts import read_dataset


def test_chd(tmp_path: Path) -> None:
    put_chd(tmp_path)
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ids(dataset) == ["ct_1001", "ct_1128"]
    assert {case.modality for case in dataset.cases} == {"CT"}
    assert dataset.labels is not None
    assert dataset.labels.names == ("LV", "RV", "LA", "RA", "MYO", "AO", "PA")
    values = np.array([0, 1, 7, 8, 30])
    assert dataset.labels.to_classes(values, where="here").tolist() == [0, 1, 7, 0, 0]
