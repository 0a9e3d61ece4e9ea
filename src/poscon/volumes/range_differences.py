"""How far the range of slices of a predicted structure is from that of the reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from poscon.volumes.case import IGNORE

State = Literal["both", "missed", "added", "neither", "unknown"]


@dataclass(frozen=True)
class RangeDifference:
    """The first and the last slice of a structure, predicted and true.

    Slices are those of the file along one axis, counted from 0. None stands where there is no such
    slice, or where the reference does not show it.

    Attributes:
        state: where the structure is: in ``both``; only in the reference (``missed``); only in the
            prediction (``added``); in ``neither``; or ``unknown``, if the labelled part of the
            reference does not have it, and another part is not labelled.
        first, last: first and last slice in the prediction.
        reference_first, reference_last: the same in the reference.
        first_slices, last_slices: prediction minus reference, in slices.
        first_mm, last_mm: the same in mm.
    """

    state: State
    first: int | None
    last: int | None
    reference_first: int | None
    reference_last: int | None
    first_slices: int | None
    last_slices: int | None
    first_mm: float | None
    last_mm: float | None


@dataclass(frozen=True)
class RangeSummary:
    """The differences of ranges of one class, or (``"all"``) of all classes, over all cases.

    An end is a first or a last slice.

    Attributes:
        name: the class, or ``"all"``.
        ends: number of ends that prediction and reference both have.
        same: number of them that do not differ.
        mean_slices, mean_mm: mean of the absolute differences; NaN if there is no such end.
        largest_slices: the largest absolute difference; None if there is no such end.
        missed: number of cases in which only the reference has the structure.
        added: number of cases in which only the prediction has it.
        unknown: number of ends that the reference does not show, as it is partly labelled.
    """

    name: str
    ends: int
    same: int
    mean_slices: float
    mean_mm: float
    largest_slices: int | None
    missed: int
    added: int
    unknown: int


def range_differences(
    prediction: np.ndarray, reference: np.ndarray, n_classes: int, axis: int, slice_mm: float
) -> list[RangeDifference]:
    """Compare the ranges of each class.

    The first slice of a class in the reference is known if all slices before it are wholly
    labelled; the last one, if all after it are.

    Args:
        prediction: (X, Y, Z) class indices.
        reference: the same shape; ``IGNORE`` where a voxel is not labelled.
        n_classes: number of foreground classes.
        axis: axis of the slices.
        slice_mm: distance of two slices in mm.

    Returns:
        The difference for each class from 1 on.
    """
    in_plane = tuple(other for other in range(3) if other != axis)
    whole = (reference != IGNORE).all(axis=in_plane)
    return [
        _difference(
            np.flatnonzero((prediction == index).any(axis=in_plane)),
            np.flatnonzero((reference == index).any(axis=in_plane)),
            whole,
            slice_mm,
        )
        for index in range(1, n_classes + 1)
    ]


def _difference(
    found: np.ndarray, true: np.ndarray, whole: np.ndarray, slice_mm: float
) -> RangeDifference:
    """Compare the ranges of one class.

    Args:
        found: rising numbers of the slices that have it in the prediction.
        true: the same in the reference.
        whole: (slices,) bool, the slices that are wholly labelled.
        slice_mm: distance of two slices in mm.
    """
    first, last = (int(found[0]), int(found[-1])) if len(found) else (None, None)
    state: State
    if len(true):
        state = "both" if len(found) else "missed"
    elif not whole.all():
        state = "unknown"
    else:
        state = "added" if len(found) else "neither"
    true_first = int(true[0]) if len(true) and whole[: true[0]].all() else None
    true_last = int(true[-1]) if len(true) and whole[true[-1] + 1 :].all() else None
    apart = [
        None if a is None or b is None else a - b
        for a, b in ((first, true_first), (last, true_last))
    ]
    mm = [None if slices is None else slices * slice_mm for slices in apart]
    return RangeDifference(state, first, last, true_first, true_last, *apart, *mm)


def summarise_ranges(name: str, differences: Sequence[RangeDifference]) -> RangeSummary:
    """Summarise the differences of a class over cases, or of all classes.

    Args:
        name: of the class, or ``"all"``.
        differences: one for each case and class.
    """
    slices = [abs(n) for d in differences for n in (d.first_slices, d.last_slices) if n is not None]
    mm = [abs(n) for d in differences for n in (d.first_mm, d.last_mm) if n is not None]
    states = [d.state for d in differences]
    hidden = [
        end is None
        for d in differences
        if d.state in ("both", "missed", "unknown")
        for end in (d.reference_first, d.reference_last)
    ]
    return RangeSummary(
        name=name,
        ends=len(slices),
        same=slices.count(0),
        mean_slices=float(np.mean(slices)) if slices else math.nan,
        mean_mm=float(np.mean(mm)) if mm else math.nan,
        largest_slices=max(slices, default=None),
        missed=states.count("missed"),
        added=states.count("added"),
        unknown=sum(hidden),
    )


def range_line(summary: RangeSummary) -> str | None:
    """A summary in words, for the terminal; None if there is no range to speak of."""
    parts = []
    if summary.ends:
        parts.append(
            f"{summary.same} of {summary.ends} first and last slices are right, the mean difference"
            f" is {summary.mean_slices:.2f} slices ({summary.mean_mm:.1f} mm), the largest is "
            f"{summary.largest_slices}"
        )
    for number, what in (
        (summary.missed, "structure(s) missed"),
        (summary.added, "structure(s) added"),
        (summary.unknown, "first and last slices not known, as the references are partly labelled"),
    ):
        if number:
            parts.append(f"{number} {what}")
    return f"ranges: {'; '.join(parts)}" if parts else None
