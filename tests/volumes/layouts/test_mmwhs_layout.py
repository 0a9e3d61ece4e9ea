"""MM-WHS."""

from pathlib import Path

import numpy as np
import pytest
from layout_examples import ids, labelled, put_mmwhs

from poscon.volumes.layouts import read_dataset


@pytest.mark.parametrize("nested", [False, True])
def test_mmwhs(tmp_path: Path, nested: bool) -> None:
    put_mmwhs(tmp_path)
    if nested:
        for path in list(tmp_path.glob("*.nii.gz")):
            folder = tmp_path / "_".join(path.name.split("_")[:2])
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["ct_test_2001", "ct_train_1001", "mr_train_1001"]
    assert labelled(dataset) == ["ct_train_1001", "mr_train_1001"]
    assert [case.modality for case in dataset.cases] == ["CT", "CT", "MR"]
    assert len({case.subject for case in dataset.cases}) == 3
    assert dataset.labels is not None
    assert dataset.labels.values == (500, 600, 420, 550, 205, 820, 850)
    assert dataset.labels.to_classes(np.array([421]), where="here").tolist() == [3]
    assert dataset.preparation == {"spacing": 1.0}
