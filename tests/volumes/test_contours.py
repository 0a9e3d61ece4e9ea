"""Contours to pixels, against a slow version in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.volumes.formats.dicom.contours import inside_contours

SHAPE = (7, 5)
"""Columns, rows."""


def slow(contours: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel and edge by edge: how many edges a half-line to the right crosses."""
    inside = np.zeros(shape, bool)
    for x in range(shape[0]):
        for y in range(shape[1]):
            for points in contours:
                for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
                    crosses = (y1 > y) != (y2 > y)
                    if crosses and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                        inside[x, y] = not inside[x, y]
    return inside


point = st.tuples(st.integers(-40, 100), st.integers(-40, 100))


@settings(max_examples=20)
@given(st.lists(st.lists(point, min_size=1, max_size=7), max_size=3))
def test_any_contours(points: list[list[tuple[int, int]]]) -> None:
    """Also those that cross themselves and go beyond the picture; no edge meets a centre."""
    contours = [np.array(one) / 13 + [0.013, 0.017] for one in points]
    np.testing.assert_array_equal(inside_contours(contours, SHAPE), slow(contours, SHAPE))


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 6)), max_size=6))
def test_a_contour_through_the_centres_of_pixels(points: list[tuple[int, int]]) -> None:
    """Rounding, as by a change of axes, changes nothing."""
    contour = np.array(points, float).reshape(-1, 2)
    found = inside_contours([contour], SHAPE)
    for noise in (1e-9, -1e-9):
        np.testing.assert_array_equal(inside_contours([contour + noise], SHAPE), found)


def square(first: float, last: float) -> np.ndarray:
    return np.array([[first, first], [last, first], [last, last], [first, last]])


def test_a_square() -> None:
    expected = np.zeros((6, 6), bool)
    expected[1:4, 1:4] = True
    np.testing.assert_array_equal(inside_contours([square(0.5, 3.5)], (6, 6)), expected)
    np.testing.assert_array_equal(inside_contours([square(1, 4)], (6, 6)), expected)


@pytest.mark.parametrize("turned", [False, True])
def test_a_hole(turned: bool) -> None:
    """A contour in a contour, whichever way round it runs; and the same as a keyhole."""
    outer, inner = square(0.5, 8.5), square(3.5, 5.5)
    inner = inner[::-1] if turned else inner
    expected = np.zeros((10, 10), bool)
    expected[1:9, 1:9] = True
    expected[4:6, 4:6] = False
    np.testing.assert_array_equal(inside_contours([outer, inner], (10, 10)), expected)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    np.testing.assert_array_equal(inside_contours([keyhole], (10, 10)), expected)


def test_two_structures_share_an_edge_and_no_pixel() -> None:
    left = np.array([[1, 1], [4, 1], [4, 5], [1, 5.0]])
    right = left + np.array([3, 0])
    both = [inside_contours([one], (9, 9)) for one in (left, right)]
    assert not (both[0] & both[1]).any()
    assert (both[0] | both[1]).sum() == 6 * 4


def test_nothing() -> None:
    assert not inside_contours([], SHAPE).any()
    assert not inside_contours([np.array([[2.0, 2.0]])], SHAPE).any()
    assert not inside_contours([square(20, 30)], SHAPE).any()
    assert inside_contours([square(-20, 30)], SHAPE).all()
