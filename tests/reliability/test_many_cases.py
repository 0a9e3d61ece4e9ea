"""The core of ``reliability/many_cases.py``, small."""

from pathlib import Path

import pytest
from many_cases import count, times, trial, write_cases

from poscon.commands.prepare import prepare


def test_the_cases_are_a_data_set(tmp_path: Path) -> None:
    write_cases(tmp_path / "scans", 11, seed=0)
    store = prepare(tmp_path / "scans", tmp_path / "store", processes=1)
    assert [case.labelled for case in store.cases] == [True, *[False] * 9, True]
    (tmp_path / "store" / "cases" / ".writing-case_00011-x").mkdir()
    assert count(tmp_path / "store") == 11
    assert times(tmp_path / "store").keys() == {case.id for case in store.cases}


@pytest.mark.slow
def test_the_whole_trial(tmp_path: Path) -> None:
    assert not any(promise.broken for promise in trial(tmp_path, 400, 0, begin=50))
