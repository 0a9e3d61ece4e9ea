from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.positions import (
    POSITIONS,
    PositionName,
    neighbours,
    physical_positions,
    relative_positions,
)
from poscon.store.manifest import AxisRecord


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


def test_millimetres_are_counted_from_the_middle():
    assert physical_positions(4, 2.5).tolist() == [-3.75, -1.25, 1.25, 3.75]
    assert physical_positions(1, 8.0).tolist() == [0.0]
    assert physical_positions(2, 8.0).tolist() == [-4.0, 4.0]


@settings(deadline=None)
@given(st.integers(1, 2000), st.sampled_from([0.7, 1.25, 5.0]))
def test_millimetres_are_a_spacing_apart_and_symmetric(n, spacing):
    positions = physical_positions(n, spacing)
    assert positions.shape == (n,)
    assert positions.dtype == np.float64
    np.testing.assert_allclose(np.diff(positions), spacing, rtol=1e-9)
    np.testing.assert_array_equal(positions, -positions[::-1])


def test_a_volume_cut_at_both_ends_keeps_its_millimetres():
    whole, cut = physical_positions(20, 3.0), physical_positions(12, 3.0)
    np.testing.assert_allclose(whole[4:-4], cut)


@pytest.mark.parametrize("name", get_args(PositionName))
def test_every_kind_gives_each_slice_a_rising_position(name):
    class Stack:
        shape = (7, 4, 5)
        spacing = (2.0, 1.0, 1.0)
        axis = AxisRecord(-30.0, -18.0, against=False, clearness=1.0, determined=True)

    kind = POSITIONS[name]
    positions = kind.of_slices(Stack())
    assert positions.shape == (7,)
    assert (np.diff(positions) > 0).all()
    assert (kind.limits is None) == (kind.unit == "mm")
    if kind.limits is not None:
        low, high = kind.limits
        assert low <= positions[0] <= positions[-1] <= high


def test_the_unit_of_a_position_in_words():
    assert [kind.in_unit for kind in POSITIONS.values()] == ["", " in mm", " in mm"]


def test_neighbours_stay_in_the_volume():
    numbers = np.array([0, 1, 4])
    assert neighbours(numbers, 5, 0).tolist() == [[0], [1], [4]]
    assert neighbours(numbers, 5, 2).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [2, 3, 4, 4, 4],
    ]
    assert neighbours(numbers, np.array([1, 2, 6]), 1).tolist() == [[0, 0, 0], [0, 1, 1], [3, 4, 5]]
