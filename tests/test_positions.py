import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.positions import neighbours, relative_positions


def test_positions_follow_the_paper():
    np.testing.assert_array_equal(relative_positions(4), [0.25, 0.5, 0.75, 1.0])
    assert relative_positions(1).tolist() == [1.0]


@settings(deadline=None)
@given(st.integers(1, 2000))
def test_positions_rise_evenly_to_one(n):
    positions = relative_positions(n)
    assert positions.shape == (n,)
    assert positions.dtype == np.float64
    assert positions[0] == pytest.approx(1 / n)
    assert positions[-1] == 1
    np.testing.assert_allclose(np.diff(positions), 1 / n, rtol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(2, 5))
def test_a_volume_cut_finer_has_its_positions_in_between(n, factor):
    coarse, fine = relative_positions(n), relative_positions(n * factor)
    np.testing.assert_allclose(fine[factor - 1 :: factor], coarse, rtol=1e-12)


def test_neighbours_stay_in_the_volume():
    numbers = np.array([0, 1, 4])
    assert neighbours(numbers, 5, 0).tolist() == [[0], [1], [4]]
    assert neighbours(numbers, 5, 2).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [2, 3, 4, 4, 4],
    ]
    assert neighbours(numbers, np.array([1, 2, 6]), 1).tolist() == [[0, 0, 0], [0, 1, 1], [3, 4, 5]]
