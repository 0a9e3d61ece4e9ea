"""The bounds in ``experiments/positions.py``: organs whose places are known."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from positions import ORGANS, best_fits, by_organs, cut_data, draw_cuts, errors

TRUE = {"liver": 310.0, "spleen": 330.0, "right kidney": 250.0, "left kidney": 265.0}
MM = {"a": 2.5, "b": 5.0, "c": 3.0, "d": 4.0}
SHIFTS = {"a": 0.0, "b": 120.0, "c": -35.0, "d": 60.0}


def seen(scales: dict[str, float]) -> dict[str, dict[str, float]]:
    """The slices in which the centroids lie, of bodies that are shifted and scaled."""
    return {
        case: {organ: (scales[case] * TRUE[organ] + SHIFTS[case]) / MM[case] for organ in ORGANS}
        for case in MM
    }


WHOLE = dict.fromkeys(MM, (0, 1000))


@pytest.mark.parametrize("scaled", [False, True])
def test_shifted_bodies_are_brought_together(scaled: bool) -> None:
    known = seen(dict.fromkeys(MM, 1.0))
    assert errors(best_fits(known, MM, scaled), known, WHOLE, MM).max() < 0.01


def test_scaled_bodies_are_brought_together_by_scales_alone() -> None:
    known = seen({"a": 0.85, "b": 1.0, "c": 1.1, "d": 1.2})
    assert errors(best_fits(known, MM, scaled=True), known, WHOLE, MM).max() < 0.01
    assert errors(best_fits(known, MM, scaled=False), known, WHOLE, MM).max() > 3


def test_scales_have_a_mean_of_one_and_limits() -> None:
    known = seen({"a": 0.2, "b": 1.0, "c": 1.0, "d": 1.0})
    scales = np.array([step / MM[case] for case, (_, step) in best_fits(known, MM, True).items()])
    assert np.log(scales).mean() == pytest.approx(0, abs=1e-9)
    assert scales.max() / scales.min() <= 1.4 / 0.7 + 1e-9


def test_an_organ_that_a_case_lacks_is_left_out() -> None:
    known = seen(dict.fromkeys(MM, 1.0))
    del known["b"]["spleen"]
    assert errors(best_fits(known, MM, scaled=True), known, WHOLE, MM).max() < 0.01


def test_slices_of_cut_scans_get_the_place_that_they_had(tmp_path: Path) -> None:
    """A box is an organ at the same level in mm of every scan; its slices must get one place."""
    data, shifts = tmp_path / "data", {"a": 0, "b": 4, "c": 9}
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    (data / "dataset.json").write_text("{}")
    for case, shift in shifts.items():
        label = np.zeros((4, 4, 60), np.uint8)
        for number, value in enumerate(ORGANS.values()):
            label[..., shift + 8 * number + 10 : shift + 8 * number + 13] = value
        nib.save(
            nib.Nifti1Image(label, np.diag([2, 2, 5, 1])), data / "labelsTr" / f"{case}.nii.gz"
        )
    cuts = draw_cuts(data, seed=0)
    assert len(set(cuts.values())) == len(shifts)
    assert cuts == cut_data(data, tmp_path / "cut", seed=0)
    cases = [
        SimpleNamespace(id=case, shape=(end - first, 4, 4)) for case, (first, end) in cuts.items()
    ]
    found = by_organs(data, 0, cases)
    expected = [5.0 * (np.arange(first, end) - shifts[case]) for case, (first, end) in cuts.items()]
    apart = found - np.concatenate(expected)
    assert np.ptp(apart) < 0.01
