"""``predictions.json`` of a folder of label maps."""

import json
from pathlib import Path

import pytest

from poscon.predictions import PredictionsFile

FACTS = {"plane": "axial", "scan_spacing_mm": [5.0, 1.0, 1.0], "unlike_training": []}


def test_it_reads_what_it_wrote_whatever_the_names(tmp_path: Path) -> None:
    file = PredictionsFile(tmp_path)
    file.begin("0" * 64)
    unlike = {**FACTS, "unlike_training": [{"kind": "channel", "text": 'a "new"\nline, ü'}]}
    file.done("a", FACTS)
    file.could_not("lost", "cases: {}")
    file.done('b "cases": {}', unlike)
    file.done("a", {**FACTS, "views": 9})
    expected = {
        "model_sha256": "0" * 64,
        "cases": {"a": {**FACTS, "views": 9}, 'b "cases": {}': unlike},
        "failed": {"lost": "cases: {}"},
    }
    assert file.path.read_text() == json.dumps(expected, indent=1) + "\n"
    again = PredictionsFile(tmp_path)
    assert (again.cases, again.failed) == (expected["cases"], expected["failed"])
    assert again.views("a") == 9


def test_failures_of_scans_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    file = PredictionsFile(tmp_path)
    file.begin("0" * 64)
    for name in ("gone", "there"):
        file.could_not(name, "NaN")
    written = file.path.stat().st_mtime_ns
    file.forget_failures(["there", "gone", "new"])
    assert file.path.stat().st_mtime_ns == written
    file.forget_failures(["there", "new"])
    assert PredictionsFile(tmp_path).failed == {"there": "NaN"}


def test_an_entry_is_made_once_however_many_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = PredictionsFile._entry

    def counted(self: PredictionsFile, name: str) -> str:
        if name not in self._texts:
            made.append(name)
        return original(self, name)

    monkeypatch.setattr(PredictionsFile, "_entry", counted)
    file = PredictionsFile(tmp_path)
    file.begin("0" * 64)
    names = [f"case_{number}" for number in range(20)]
    for name in names:
        file.done(name, FACTS)
    assert made == names
