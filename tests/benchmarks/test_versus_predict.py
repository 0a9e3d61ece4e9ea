from pathlib import Path

import pytest

from poscon.errors import PosconError
from poscon.models import Model
from poscon.volumes.layouts import read_dataset

pytest.importorskip("torchio", reason="pip install -e '.[benchmarks]'")

import versus_predict

QUICK = ["--volumes", "2", "--threads", "1", "--rounds", "1"]


def table(printed: str, columns: int) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == columns}


def test_libraries_find_what_poscon_finds(
    one_scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is resampled, which each does in its own way, the label maps are the same."""
    versus_predict.main([str(one_scan), *QUICK])
    found = table(capsys.readouterr().out, columns=4)
    for name in ("poscon", "MONAI", "TorchIO"):
        assert float(found[name][2]) > 0.999
    assert found["bare network"][2] == ""


def test_a_run_is_taken_apart(
    finetuned: Path, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versus_predict.main([str(scans), "--run", str(finetuned), *QUICK])
    found = table(capsys.readouterr().out, columns=2)
    shares = {part: float(share.rstrip("%")) for part, (share,) in found.items() if "%" in share}
    assert set(versus_predict.PARTS) - {"largest structure"} <= set(shares)
    assert 0 < shares["network"] < 100
    assert sum(shares.values()) > 50


def test_a_run_has_its_own_width(finetuned: Path, scans: Path) -> None:
    with pytest.raises(SystemExit):
        versus_predict.main([str(scans), "--run", str(finetuned), "--width", "8", *QUICK])


def test_only_what_the_libraries_do_too(one_scan: Path, tmp_path: Path) -> None:
    cases = read_dataset(one_scan).cases
    model = Model(versus_predict.random_run(tmp_path / "run", cases, width=4), "cpu")
    versus_predict.check(cases, model)
    for changed in ({"spacing": None}, {"source_spacing": (1.0, 1.0, 1.0)}, {"plane": "coronal"}):
        usual = model.preparation
        model.preparation = usual.model_copy(update=changed)
        with pytest.raises(PosconError, match="needed"):
            versus_predict.check(cases, model)
        model.preparation = usual
