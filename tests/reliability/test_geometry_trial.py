"""Some scans of the trial of geometry."""

from pathlib import Path

import numpy as np
import pytest
from geometry import PER_CALL, promises, same_grid, try_scans
from random_scans import draw_scan, text_affine

from poscon.training.inference import predicted_classes


@pytest.mark.parametrize("first", [0, PER_CALL])  # as scanned, resampled
def test_label_maps_lie_on_random_scans(finetuned: Path, tmp_path: Path, first: int) -> None:
    tried = promises()
    try_scans(tmp_path / "trial", finetuned, 0, range(first, first + 12), tried)
    for promise in tried.all():
        assert not promise.broken
    assert tried.grid.tried > 6
    assert tried.refused.tried > 0
    assert not (tmp_path / "trial").exists()


def test_a_voxel_at_another_place_breaks_the_promise(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(*arguments: object, **options: object) -> np.ndarray:
        return np.roll(predicted_classes(*arguments, **options), 1, axis=1)

    monkeypatch.setattr("poscon.models.predicted_classes", moved)
    tried = promises()
    try_scans(tmp_path / "trial", finetuned, 0, range(5), tried)
    assert tried.voxels.broken


def test_another_grid_is_seen(tmp_path: Path) -> None:
    scan, other = (
        next(one for number in range(start, 200) if (one := draw_scan(1, number)).suffix == ".nrrd")
        for start in (0, 100)
    )
    for name, drawn in (("scan", scan), ("other", other)):
        (tmp_path / f"{name}.nrrd").write_bytes(drawn.reference[".nrrd"])
    place = tmp_path / "scan.nrrd"
    assert same_grid(scan, place, place) is None
    assert same_grid(scan, place, tmp_path / "other.nrrd") is not None
    np.testing.assert_allclose(text_affine(place.read_bytes()), scan.affine)
