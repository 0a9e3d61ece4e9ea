"""``dataset.json``, which the layouts ``msd`` and ``nnunet`` read."""

from pathlib import Path
from typing import Any

import pytest
from layout_examples import put_msd, put_nnunet

from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset


def test_a_key_that_is_twice_in_dataset_json(tmp_path: Path) -> None:
    put_nnunet(tmp_path)
    text = (tmp_path / "dataset.json").read_text()
    (tmp_path / "dataset.json").write_text(text.replace('"RV": 1', '"RV": 1, "RV": 2'))
    with pytest.raises(PosconError, match=r"dataset\.json: 'RV' occurs twice"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("put_it", [put_msd, put_nnunet])
def test_what_dataset_json_states_and_the_files_do_not_bear_out(
    tmp_path: Path, put_it: Any
) -> None:
    put_it(tmp_path, numTraining=2)
    assert read_dataset(tmp_path).notes == ()
    put_it(tmp_path, numTraining=3, labels={"0": "RV", "1": "LV"})
    numbers, zero = read_dataset(tmp_path).notes
    assert "3 training cases" in numbers
    assert "2 label maps" in numbers
    assert "calls the value 0 'RV'" in zero
    put_it(tmp_path, labels={"RV": 0, "LV": 1})
    assert "calls the value 0 'RV'" in read_dataset(tmp_path).notes[-1]


def test_broken_dataset_json(tmp_path: Path) -> None:
    put_msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(PosconError, match=r"dataset\.json: not valid JSON"):
        read_dataset(tmp_path)
