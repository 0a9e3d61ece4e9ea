"""Differences of ranges: against a count slice by slice, and their summary in words."""

import math

import numpy as np
import pytest

from poscon.volumes.case import IGNORE
from poscon.volumes.range_differences import (
    RangeDifference,
    range_differences,
    range_line,
    summarise_ranges,
)


def one(prediction: str, reference: str, mm: float = 2.0) -> RangeDifference:
    """The difference of two stacks of slices, each a character: ``-`` no, ``x`` yes, ``?``."""
    values = {"-": 0, "x": 1, "?": IGNORE}
    maps = [np.array([values[c] for c in text], np.uint8) for text in (prediction, reference)]
    a, b = (np.broadcast_to(each, (2, 3, len(each))) for each in maps)
    (found,) = range_differences(a, b, 1, 2, mm)
    return found


def test_difference_in_slices_and_mm() -> None:
    found = one("-xxx----", "--xxxx--")
    assert (found.first, found.last) == (1, 3)
    assert (found.reference_first, found.reference_last) == (2, 5)
    assert (found.first_slices, found.last_slices) == (-1, -2)
    assert (found.first_mm, found.last_mm) == (-2.0, -4.0)
    assert found.state == "both"


@pytest.mark.parametrize(
    ("prediction", "reference", "state"),
    [
        ("----", "-x--", "missed"),
        ("-x--", "----", "added"),
        ("----", "----", "neither"),
        ("-x--", "---?", "unknown"),
        ("----", "?---", "unknown"),
        ("----", "?x--", "missed"),
        ("-x--", "?x--", "both"),
    ],
)
def test_where_a_structure_is(prediction: str, reference: str, state: str) -> None:
    found = one(prediction, reference)
    assert found.state == state
    if state != "both":
        assert found.first_slices is found.last_slices is found.first_mm is None


@pytest.mark.parametrize(
    ("reference", "first", "last"),
    [
        ("?-xx--", None, 3),  # it may begin in slice 0
        ("--xx?-", 2, None),
        ("--x?x-", 2, 4),  # a gap within does not matter
        ("?xxxx?", None, None),
        ("xx??--", 0, None),
    ],
)
def test_an_end_is_known_if_all_slices_beyond_it_are_labelled(
    reference: str, first: int | None, last: int | None
) -> None:
    found = one("xxxxxx", reference)
    assert (found.reference_first, found.reference_last) == (first, last)
    assert found.first_slices == (None if first is None else -first)
    assert found.last_slices == (None if last is None else 5 - last)


def test_a_slice_that_is_labelled_in_part_hides_the_end_beyond_it() -> None:
    prediction, reference = np.ones((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    reference[:, :, 0] = 0
    reference[0, 0, 0] = IGNORE
    (found,) = range_differences(prediction, reference, 1, 2, 1.0)
    assert (found.reference_first, found.reference_last) == (None, 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_class_along_every_axis(axis: int) -> None:
    generator = np.random.default_rng(axis)
    a, b = generator.choice(4, size=(2, 3, 4, 5), p=[0.94, 0.02, 0.02, 0.02])
    for index, found in enumerate(range_differences(a, b, 3, axis, 1.5), start=1):
        ends: list[tuple[int, int] | None] = []
        for labels in (a, b):
            slices = [
                n
                for n in range(labels.shape[axis])
                if any(value == index for value in np.take(labels, n, axis).ravel())
            ]
            ends.append((slices[0], slices[-1]) if slices else None)
        mine, truth = ends
        assert (found.first, found.last) == (mine or (None, None))
        assert (found.reference_first, found.reference_last) == (truth or (None, None))
        if mine and truth:
            assert found.last_mm == 1.5 * (mine[1] - truth[1])


def test_summary() -> None:
    pairs = [("-xx---", "-xxxx-"), ("-x----", "-x----"), ("------", "-x----"), ("x-----", "?-x---")]
    found = summarise_ranges("LV", [one(*pair) for pair in pairs])
    assert (found.ends, found.same, found.largest_slices) == (5, 3, 2)
    assert found.mean_slices == pytest.approx(4 / 5)
    assert found.mean_mm == pytest.approx(8 / 5)
    assert (found.missed, found.added, found.unknown) == (1, 0, 1)
    assert range_line(found) == (
        "ranges: 3 of 5 first and last slices are right, the mean difference is 0.80 slices (1.6 "
        "mm), the largest is 2; 1 structure(s) missed; 1 first and last slices not known, as the "
        "references are partly labelled"
    )


def test_nothing_to_summarise() -> None:
    found = summarise_ranges("LV", [one("----", "----")])
    assert (found.ends, found.largest_slices) == (0, None)
    assert math.isnan(found.mean_slices)
    assert range_line(found) is None
