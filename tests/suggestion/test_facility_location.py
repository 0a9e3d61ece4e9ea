import numpy as np
import pytest

from poscon.suggestion import facility_location as module
from poscon.suggestion.facility_location import FacilityLocation
from poscon.suggestion.pool import unit


def slow_value(
    points: np.ndarray, covered: np.ndarray, weights: np.ndarray, chosen: list[int]
) -> float:
    """f(S) in double precision, as it is written."""
    if not chosen:
        return 0.0
    similarity = (1 + points.astype(float) @ points.astype(float).T) / 2
    nearest = [max(similarity[i, j] for j in chosen) for i in covered]
    return float(np.dot(weights / weights.sum(), nearest))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block", [2**23, 50])
def test_gains_and_greedy_choices_are_those_of_the_definition(
    weighted: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    generator = np.random.default_rng(5)
    points = unit(generator.standard_normal((40, 6)))
    covered = np.sort(generator.permutation(40)[:25])
    weights = generator.random(25) if weighted else np.ones(25)
    location = FacilityLocation(points, covered, weights if weighted else None)
    chosen: list[int] = []
    for step in range(10):
        value = slow_value(points, covered, weights, chosen)
        gains = [slow_value(points, covered, weights, [*chosen, j]) - value for j in range(40)]
        np.testing.assert_allclose(location.gains, gains, atol=1e-6)
        assert location.value == pytest.approx(value, abs=1e-6)
        best = int(location.gains.argmax())
        assert best == int(np.argmax(gains))
        if step == 0:  # several points at once
            location.add(np.array([best, 3, 7]))
            chosen += [best, 3, 7]
        else:
            location.add(np.array([best]))
            chosen.append(best)


def test_nothing_joins_and_nothing_weighs() -> None:
    points = unit(np.random.default_rng(0).standard_normal((8, 3)))
    location = FacilityLocation(points, np.arange(8), np.zeros(8))
    location.add(np.array([], int))
    location.add(np.array([1]))
    assert location.value == 0
    assert not location.gains.any()
