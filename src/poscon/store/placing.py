"""Where the volumes of a store lie on one axis of the anatomy, by their images alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poscon.alignment.align import Alignment, align
from poscon.alignment.thumbnails import thumbnails
from poscon.errors import PosconError
from poscon.progress import progress_bar
from poscon.seeds import stream
from poscon.store.manifest import AxisRecord, CaseRecord
from poscon.store.store import Store

FEWEST = 3
"""Subjects that it takes to find what they share."""


@dataclass(frozen=True)
class Placed:
    """The axis of each case by its id, and the small pictures that it was found by."""

    axis: dict[str, AxisRecord]
    features: list[np.ndarray]


def place_cases(store: Store, cases: Sequence[CaseRecord], seed: int) -> Placed:
    """Place cases on an axis of their own, see :func:`poscon.alignment.align.align`.

    Args:
        store: where their images are. It is not changed, and its other cases are not looked at.
        cases: the cases.
        seed: decides which volumes are compared, where there are more than a hundred.

    Raises:
        PosconError: fewer than three subjects, or no volume whose images say where it lies.
    """
    subjects = [case.subject for case in cases]
    if len(set(subjects)) < FEWEST:
        raise PosconError(
            f"{store.path}: {len(set(subjects))} subject(s) are to be placed; to find what they "
            f"share takes at least {FEWEST}"
        )
    features = _features(store, cases)
    depths = [np.arange(case.shape[0]) * case.spacing[0] for case in cases]
    # frames of one file run the same way, if none of them was turned by itself
    files = [
        case.id if case.frame_index is None else f"{case.source} {case.geometry.flips}"
        for case in cases
    ]
    found = align(features, depths, subjects, files, stream(seed, "align"))
    if not found.determined.any():
        raise PosconError(
            f"{store.path}: the slices of its volumes are too alike to say where they lie; use "
            "position=relative or position=physical"
        )
    return Placed(_axis_records(cases, found), features)


def _features(store: Store, cases: Sequence[CaseRecord]) -> list[np.ndarray]:
    """The small pictures of every case."""
    described = []
    with progress_bar() as progress:
        task = progress.add_task("placing volumes", total=len(cases), status="")
        for case in cases:
            described.append(thumbnails(store.image(case)))
            progress.advance(task)
    return described


def _axis_records(cases: Sequence[CaseRecord], found: Alignment) -> dict[str, AxisRecord]:
    """What the store keeps. A volume that is not determined gets the ends that most have."""
    usual = np.median(np.sort(found.ends[found.determined], axis=1), axis=0)
    axis = {}
    for number, case in enumerate(cases):
        known, against = bool(found.determined[number]), bool(found.directions[number] < 0)
        placed = usual[::-1] if against else usual
        first, last = found.ends[number] if known else placed
        axis[case.id] = AxisRecord(
            first=round(float(first), 3),
            last=round(float(last), 3),
            against=against,
            clearness=round(float(found.clearness[number]), 3),
            determined=known,
        )
    return axis
