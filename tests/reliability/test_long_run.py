"""The trial of long runs, with few steps: it finds what it should, and it works at all."""

import sys
from pathlib import Path

import long_run
import pytest
from long_run import Promises, write_scans
from watching import Sample

from poscon.volumes.scan import read_scan


def samples(grows: float) -> list[Sample]:
    return [
        Sample(100 * n, 300 + grows * n, 20 + int(grows * n), 3, 1, 0.5 * n) for n in range(101)
    ]


def test_what_grows_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    promises = Promises()
    promises.note("flat", samples(0.0))
    assert not any(promise.broken for promise in promises.all())
    promises.note("leaks", samples(1.0))
    assert promises.memory.broken == ["leaks: +80.0 MB"]
    assert promises.handles.broken[0].startswith("leaks: +80.0 files")
    assert not promises.speed.broken
    promises.note("predict", samples(1.0))
    assert promises.entries.broken == ["predict: +10.0 KB a case"]
    assert "flat: 10,000 done, 50 s of processor; memory 300 MB" in capsys.readouterr().out


def test_the_scans_differ(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans", 2, seed=7)
    first, second = (read_scan(path) for path in sorted((tmp_path / "scans").iterdir()))
    assert first.data.shape == second.data.shape == (32, 32, 8)
    assert (first.data != second.data).any()


@pytest.mark.slow
def test_all_of_it_with_few_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ("--steps", "200", "--resumes", "1", "--cases", "20", "--requests", "60")
    monkeypatch.setattr(sys, "argv", ["long_run.py", *numbers])
    with pytest.raises(SystemExit):  # so few steps say nothing of what grows
        long_run.main()
    out = capsys.readouterr().out
    assert "it ends well, and no process is left: tried 5, held 5" in out
    assert "one checkpoint is kept, and nothing half-written: tried 3, held 3" in out
    assert "takes less than 1 MB, and is complete: tried 3, held 3" in out
