"""Ranges: the first and the last slice of each structure, the cheapest label there is.

A file of ranges is a CSV with the columns ``case``, ``class``, ``first`` and ``last``. The numbers
are those of the file's own slices, counted from 0, and both slices have the structure. A structure
that a scan does not have has two empty numbers.
"""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from poscon.csv_tables import read_table
from poscon.errors import PosconError
from poscon.files import whole_number
from poscon.volumes.geometry import SliceGeometry

COLUMNS = ("case", "class", "first", "last")
OPEN = "?"
"""In a template, what is still to be filled in; an empty field would say that nothing is there."""

Range = tuple[int, int] | None
"""First and last slice of a structure, both inclusive; None: the scan does not have it."""

Ranges = Mapping[str, Mapping[str, Range]]
"""The ranges by case and by class."""


def read_ranges(path: Path, classes: Collection[str]) -> Ranges:
    """Read a file of ranges.

    Args:
        path: the file.
        classes: the names that may stand there.

    Raises:
        PosconError: no such file, other columns, an unknown class, a field that is still to be
            filled in, a number that is no slice, a range that ends before it begins, or a second
            row of a case and class.
    """
    found: dict[str, dict[str, Range]] = defaultdict(dict)
    for where, row in read_table(path, COLUMNS, ()):
        case, name = row["case"], row["class"]
        if name not in classes:
            raise PosconError(f"{where}: no class {name!r}; the classes are {', '.join(classes)}")
        if name in found[case]:
            raise PosconError(f"{where}: the range of {name} in case {case} is there twice")
        found[case][name] = _range(row["first"], row["last"], where)
    if not found:
        raise PosconError(f"{path}: must hold at least one row below its heading")
    return dict(found)


def write_template(path: Path, cases: Iterable[str], classes: Sequence[str]) -> None:
    """Write a file of ranges to be filled in, which :func:`read_ranges` refuses until it is.

    Args:
        path: the file.
        cases: the cases; each has a row for each class.
        classes: the names of the classes.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((case, name, OPEN, OPEN) for case in cases for name in classes)


def _range(first: str, last: str, where: str) -> Range:
    if not first and not last:
        return None
    if OPEN in (first, last):
        raise PosconError(
            f"{where}: first {first!r} and last {last!r} must be filled in; write two numbers of "
            "slices, or nothing for a structure that is not there, or remove the line"
        )
    start, end = whole_number(first), whole_number(last)
    if start is None or end is None:
        raise PosconError(
            f"{where}: first {first[:40]!r} and last {last[:40]!r} must be two numbers of slices "
            "from 0, or both empty for a structure that is not there"
        )
    if start > end:
        raise PosconError(f"{where}: first must be at most last, not {start} and {end}")
    return start, end


def check_ranges(ranges: Mapping[str, Range], n_slices: int, where: str) -> None:
    """Refuse ranges that end outside their scan.

    Args:
        ranges: the range of each class.
        n_slices: how many slices the scan has.
        where: the file and the case, for the message.

    Raises:
        PosconError: one does.
    """
    for name, limits in ranges.items():
        if limits is not None and limits[1] >= n_slices:
            raise PosconError(
                f"{where}: {name} ends in slice {limits[1]}, and the scan has the slices 0 to "
                f"{n_slices - 1}"
            )


def check_cases(ranges: Ranges, n_slices: Mapping[str, int], *, where: str, what: str) -> None:
    """Refuse ranges of a case that there is not, or that end outside their scan.

    Args:
        ranges: by case and class.
        n_slices: how many slices each case has.
        where: the file, for messages.
        what: the name of all the cases together, for messages.

    Raises:
        PosconError: one does.
    """
    for case, limits in ranges.items():
        if case not in n_slices:
            raise PosconError(f"{where}: there is no case {case!r} among {what}")
        check_ranges(limits, n_slices[case], f"{where}, case {case}")


def empty_outside(
    classes: np.ndarray,
    ranges: Mapping[str, Range],
    names: Sequence[str],
    geometry: SliceGeometry,
) -> np.ndarray:
    """Make background of each class outside its range.

    Args:
        classes: (slices, rows, columns) class indices of a stack.
        ranges: the range of each class in slices of the file. A class without one is kept.
        names: the foreground classes; class i + 1 has the name i.
        geometry: from the file to the stack.

    Returns:
        A new array of the same shape and type.
    """
    numbers = np.arange(len(classes))
    if geometry.flips[0]:
        numbers = numbers[::-1]
    kept = classes.copy()
    for name, limits in ranges.items():
        first, last = (1, 0) if limits is None else limits
        outside = (numbers < first) | (numbers > last)
        part = kept[outside]
        part[part == names.index(name) + 1] = 0
        kept[outside] = part
    return kept
