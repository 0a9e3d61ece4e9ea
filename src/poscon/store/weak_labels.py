"""The ranges of structures in a store: weak labels of its cases."""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace

from poscon.errors import PosconError
from poscon.store.manifest import SCHEMA_VERSION, CaseRecord, Manifest
from poscon.volumes.case import IGNORE
from poscon.volumes.ranges import Range, Ranges, check_cases


def add_ranges(
    manifest: Manifest,
    ranges: Ranges,
    label_of: Callable[[CaseRecord], np.ndarray],
    *,
    where: str,
) -> Manifest:
    """A manifest of this schema with ranges. A range that a case has already is replaced.

    Args:
        manifest: of the store.
        ranges: by case and class, in numbers of the files' slices.
        label_of: reads the stored label map of a labelled case, which is compared with its ranges.
        where: the file that they are from, for messages.

    Raises:
        PosconError: there is no such case or slice, or a label map says otherwise.
    """
    counts = {case.id: case.shape[0] for case in manifest.cases}
    check_cases(ranges, counts, where=where, what="those of the store")
    names = [c.name for c in manifest.classes]
    cases = []
    for case in manifest.cases:
        found = ranges.get(case.id, {})
        if found:
            own = {name: _turned(limits, case) for name, limits in found.items()}
            case = replace(case, ranges={**case.ranges, **own})
            if case.labelled:
                check_label(case, label_of(case), names, where=f"{where}, case {case.id}")
        cases.append(case)
    return manifest.model_copy(update={"schema_version": SCHEMA_VERSION, "cases": tuple(cases)})


def ranges_line(cases: Sequence[CaseRecord]) -> str | None:
    """How many cases have ranges, in one line; None if none has."""
    n = sum(bool(case.ranges) for case in cases)
    return f"{n} of {len(cases)} cases have ranges of structures" if n else None


def possible_classes(case: CaseRecord, names: Sequence[str]) -> np.ndarray:
    """(slices, classes + 1) bool: which classes each slice may have; background is always one.

    Args:
        case: the case.
        names: names of the foreground classes.
    """
    possible = np.ones((case.shape[0], len(names) + 1), bool)
    for name, limits in case.ranges.items():
        inside = np.zeros(case.shape[0], bool)
        if limits is not None:
            inside[limits[0] : limits[1] + 1] = True
        possible[:, names.index(name) + 1] = inside
    return possible


def _turned(limits: Range, case: CaseRecord) -> Range:
    """A range in slices of the store, of one in slices of the file or the other way round."""
    if limits is None:
        return None
    first, last = sorted(map(case.file_slice, limits))
    return first, last


def check_label(case: CaseRecord, label: np.ndarray, names: Sequence[str], *, where: str) -> None:
    """Refuse a label map that has a structure outside of its range.

    Args:
        case: the case, with its ranges.
        label: (slices, rows, columns) of the store.
        names: names of the foreground classes.
        where: what says the ranges, for the message.

    Raises:
        PosconError: it has.
    """
    possible = possible_classes(case, names)
    for number in np.flatnonzero((label != IGNORE).any(axis=(1, 2))).tolist():
        for index in np.unique(label[number]).tolist():
            if index == IGNORE or possible[number, index]:
                continue
            limits = _turned(case.ranges[names[index - 1]], case)
            said = "not there" if limits is None else f"in slices {limits[0]} to {limits[1]} only"
            raise PosconError(
                f"{where}: says that {names[index - 1]} is {said}, but the label map has it in "
                f"slice {case.file_slice(number)}; correct one of the two"
            )
