"""Real DICOM series agree with what another converter made of them; the page says so."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "dicom_table.py"
SERIES = 37
EQUAL = 25
"""Series with a file of the other converter that are equal to it."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
