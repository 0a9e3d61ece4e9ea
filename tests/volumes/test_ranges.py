"""Ranges of structures: the file, and what lies outside them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.ranges import check_ranges, empty_outside, read_ranges

NAMES = ("liver", "spleen")


def write(folder: Path, text: str) -> Path:
    path = folder / "ranges.csv"
    path.write_text(text)
    return path


def test_reads_ranges_and_structures_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, "case,class,first,last\na,liver,3,3\na,spleen,,\nb,liver, 0 ,12\n")
    assert read_ranges(path, NAMES) == {
        "a": {"liver": (3, 3), "spleen": None},
        "b": {"liver": (0, 12)},
    }


def test_columns_may_stand_in_any_order_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufefflast,first,class,case\r\n5,2,liver,a\r\n")
    assert read_ranges(path, NAMES) == {"a": {"liver": (2, 5)}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,class,first\na,liver,1\n", "no column 'last'; .* name 'case,class,first,last'"),
        ("case,class,first,last\n", "must hold at least one row"),
        ("", "no column 'case'"),
        ("case,class,first,last\na,kidney,1,2\n", "line 2: no class 'kidney'; .* liver, spleen"),
        ("case,class,first,last\na,liver,4,2\n", "line 2: first must be at most last, not 4 and 2"),
        ("case,class,first,last\na,liver,?,?\n", r"line 2: first '\?' .* must be filled in"),
        ("case,class,first,last\na,liver,4,?\n", "line 2: first '4' .* must be filled in"),
        ("case,class,first,last\na,liver,4,\n", "line 2: first '4' and last ''"),
        ("case,class,first,last\na,liver,-1,2\n", "line 2: first '-1'"),
        ("case,class,first,last\na,liver,1.5,2\n", "line 2: first '1.5'"),
        ("case,class,first,last\na,liver\n", "line 2: 2 fields, but 4 columns"),  # cut off
        ("case,class,first,last\na,liver,1,2,3\n", "line 2: 5 fields, but 4 columns"),
        (
            "case,class,first,last\na,liver,1,2\na,liver,1,3\n",
            "line 3: the range of liver in case a is there twice",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=message):
        read_ranges(write(tmp_path, text), NAMES)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"none\.csv: cannot be read"):
        read_ranges(tmp_path / "none.csv", NAMES)


def test_a_range_that_ends_outside_the_scan_is_refused() -> None:
    check_ranges({"liver": (0, 7), "spleen": None}, 8, "x.csv, case a")
    with pytest.raises(PosconError, match=r"x\.csv, case a: liver ends in slice 8, .* 0 to 7"):
        check_ranges({"liver": (0, 8)}, 8, "x.csv, case a")


LIMITS = st.one_of(
    st.none(), st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda p: (min(p), max(p)))
)


@given(
    st.dictionaries(st.sampled_from(NAMES), LIMITS),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_a_class_is_background_outside_its_range_in_the_slices_of_the_file(
    ranges, order, signs, reverse, seed
):
    """Whatever the axes of the file, and whichever of them is that of the slices."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([1.0, 1.0, 3.0])[list(order)] * np.array(signs)
    geometry = slice_geometry((6, 6, 6), affine, reverse=reverse)
    volume = np.random.default_rng(seed).integers(0, 3, (6, 6, 6)).astype(np.uint8)
    result = geometry.to_volume(empty_outside(geometry.to_stack(volume), ranges, NAMES, geometry))
    axis = geometry.permutation[0]
    for index in np.ndindex(volume.shape):
        value = volume[index]
        name = NAMES[value - 1] if value else None
        expected = value
        if name in ranges:
            limits = ranges[name]
            if limits is None or not limits[0] <= index[axis] <= limits[1]:
                expected = 0
        assert result[index] == expected
