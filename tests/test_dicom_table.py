"""Real DICOM series agree with what another converter made of them; the page says so."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from docs_scripts import load

SERIES = 37
EQUAL = 25
"""Series with a file of the other converter that are equal to it."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("dicom_table")


@pytest.fixture(scope="module")
def rows(script: ModuleType, shared_data: Path) -> list[Any]:
    """What became of every series. It takes four seconds."""
    root = shared_data / "dicom"
    return [script.look_at(root, folder) for folder in script.series_folders(root)]


def test_real_series_agree_with_another_converter(rows: list[Any]) -> None:
    assert len(rows) == SERIES
    assert sum(row.compared and row.differs is None for row in rows) == EQUAL
    unequal = {row.folder: row.differs for row in rows if row.differs is not None}
    # docs/reference/dicom.md says why
    assert unequal.keys() == {
        "short/philips_enhanced/dti/001",
        "short/siemens/dti/001",
        "short/siemens/fmri/001",
    }


def test_the_page_has_the_table(script: ModuleType, rows: list[Any]) -> None:
    assert script.table(rows) in script.PAGE.read_text(encoding="utf-8")
