from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from poscon.commands.prepare import prepare
from poscon.errors import PosconError

pytest.importorskip("torchio", reason="pip install -e '.[benchmarks]'")

import versus_prepare


def test_every_way_is_in_the_table(one_scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versus_prepare.main([str(one_scan), "--processes", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    for name in ("poscon", "MONAI", "TorchIO"):
        assert f"| {name} | 1 |" in printed
    assert "0.0000 (1 of 1 volumes) | 1.0000 |" in printed


@pytest.mark.parametrize("name", ["MONAI", "TorchIO"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_library_prepares_the_same(
    name: str, processes: int, one_scan: Path, tmp_path: Path
) -> None:
    """Where nothing is resampled, which each does in its own way, only rounding is left."""
    store = prepare(one_scan, tmp_path / "store", plane="axial")
    target = tmp_path / name
    versus_prepare.ways(one_scan, store)[name](target, processes)
    (case,) = store.cases
    image, label = (np.load(target / "cases" / case.id / f"{x}.npy") for x in ("image", "label"))
    np.testing.assert_allclose(image, store.image(case), atol=0.01)
    np.testing.assert_array_equal(label, store.label(case))


def test_two_modalities_are_refused(one_scan: Path, tmp_path: Path) -> None:
    store = prepare(one_scan, tmp_path / "store", plane="axial")
    (case,) = store.cases
    intensity = replace(case.intensity, modality="CT")
    other = replace(case, intensity=intensity)
    store.manifest = store.manifest.model_copy(update={"cases": (case, other)})
    with pytest.raises(PosconError, match="two modalities"):
        versus_prepare.ways(one_scan, store)
