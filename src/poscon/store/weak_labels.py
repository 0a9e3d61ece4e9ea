"""The ranges of structures in a store: weak labels of its cases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from poscon.errors import PosconError
from poscon.store.store import SCHEMA_VERSION, CaseRecord, Manifest
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
        if found and case.labelled:
            _check_label(case, label_of(case), found, names, where=f"{where}, case {case.id}")
        own = {name: _turned(limits, case) for name, limits in found.items()}
        cases.append(replace(case, ranges={**case.ranges, **own}) if own else case)
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
    if limits is None or not case.geometry.flips[0]:
        return limits
    last = case.shape[0] - 1
    return last - limits[1], last - limits[0]


def _check_label(
    case: CaseRecord,
    label: np.ndarray,
    ranges: Mapping[str, Range],
    names: Sequence[str],
    *,
    where: str,
) -> None:
    """Refuse ranges outside of which a label map has the structure.

    Args:
        case: the case.
        label: (slices, rows, columns) of the store.
        ranges: in slices of the file.
        names: names of the foreground classes.
        where: the file and the case, for messages.
    """
    for number in case.labelled_slice_numbers.tolist():
        present = set(np.unique(label[number]).tolist())
        in_file = case.shape[0] - 1 - number if case.geometry.flips[0] else number
        for name, limits in ranges.items():
            inside = limits is not None and limits[0] <= in_file <= limits[1]
            if inside or names.index(name) + 1 not in present:
                continue
            said = "not there" if limits is None else f"in slices {limits[0]} to {limits[1]} only"
            raise PosconError(
                f"{where}: says that {name} is {said}, but the label map has it in slice "
                f"{in_file}; correct one of the two"
            )
