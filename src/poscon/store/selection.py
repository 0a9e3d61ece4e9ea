"""Choosing cases of a store, and the extent to train at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from poscon.errors import PosconError
from poscon.store.manifest import CaseRecord
from poscon.store.names import Names, names_place, read_names
from poscon.store.store import Store
from poscon.volumes.case import Case

LARGEST_AUTO_SIZE = 128


Named = TypeVar("Named", Case, CaseRecord)


def cases_named(cases: Sequence[Named], names: Names, folder: Path) -> list[Named]:
    """Those of a folder's cases that are named by their id or by their subject.

    Raises:
        PosconError: a name is neither.
    """
    wanted = set(read_names(names))
    unknown = wanted - {c.id for c in cases} - {c.subject for c in cases}
    if unknown:
        raise PosconError(
            f"{names_place(names)}: {len(unknown)} name(s) are neither a case nor a subject of "
            f"{folder}: {', '.join(sorted(unknown)[:5])}"
        )
    return [c for c in cases if c.id in wanted or c.subject in wanted]


def choose_cases(store: Store, cases: Names | None, exclude: Names | None) -> list[CaseRecord]:
    """The cases a command works on: those named, less all cases of the subjects excluded.

    Naming one frame of a subject excludes all of them: another frame of a test subject is no
    fresh data.

    Raises:
        PosconError: a name that does not occur, or nothing is left.
    """
    chosen = (
        list(store.cases)
        if cases is None
        else store.select(read_names(cases), where=names_place(cases))
    )
    if exclude is not None:
        (chosen,) = leave_out(store, exclude, chosen)
    if not chosen:
        raise PosconError(f"{store.path}: no case is left; look at --cases and --exclude")
    return chosen


def leave_out(
    store: Store, exclude: Names, *pools: Sequence[CaseRecord], needed: bool = True
) -> list[list[CaseRecord]]:
    """Pools of cases without those of the subjects that are named.

    Args:
        store: whose cases they are.
        exclude: the names.
        pools: lists of cases.
        needed: whether the names have no other effect.

    Raises:
        PosconError: a name that does not occur; or it is needed, and no pool has the subjects.
    """
    named = store.select(read_names(exclude), where=names_place(exclude))
    left_out = {c.subject for c in named}
    if needed and not left_out & {c.subject for pool in pools for c in pool}:
        raise PosconError(f"{names_place(exclude)}: has no effect, none of its subjects was chosen")
    return [[c for c in pool if c.subject not in left_out] for pool in pools]


def draw_subjects(cases: Sequence[CaseRecord], n: int, seed: int) -> list[CaseRecord]:
    """All labelled cases of ``n`` subjects, drawn at random; draws of one seed are nested.

    Args:
        cases: to draw from; those without a label are passed over.
        n: number of subjects.
        seed: seed of the order, of which the first n are taken.

    Raises:
        PosconError: there are fewer labelled subjects.
    """
    order = subject_order(cases, seed)
    if n > len(order):
        raise PosconError(
            f"{n} labelled subjects asked for, {len(order)} to draw from; "
            "ask for fewer or prepare the store with label maps"
        )
    return [c for c in cases if c.labelled and c.subject in order[:n]]


def subject_order(cases: Sequence[CaseRecord], seed: int) -> list[str]:
    """The subjects with a labelled case, in the random order of a seed."""
    subjects = sorted({case.subject for case in cases if case.labelled})
    return [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]


def slice_size(cases: Sequence[CaseRecord], size: int | Literal["auto"], stride: int) -> int:
    """The extent of training crops in pixels.

    ``"auto"`` is the smallest multiple of the network's stride that covers the slices of
    half of the cases whole, at most 128.

    Raises:
        PosconError: not a multiple of the stride.
    """
    if size == "auto":
        extent = float(np.median([max(case.shape[1:]) for case in cases]))
        return stride * max(1, min(LARGEST_AUTO_SIZE // stride, int(np.ceil(extent / stride))))
    check_multiple(size, stride)
    return size


def check_multiple(size: int, stride: int) -> None:
    """Refuse an extent that the network cannot halve as often as it has to.

    Args:
        size: extent of training crops in pixels.
        stride: of the network.

    Raises:
        PosconError: the extent is not a multiple of the stride.
    """
    if size % stride:
        raise PosconError(f"setting size = {size}: must be a multiple of {stride}")
