"""The bounds in ``experiments/positions.py``: organs whose places are known."""

import numpy as np
import pytest
from positions import ORGANS, best_fits, errors

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
