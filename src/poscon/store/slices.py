"""Which slices are labelled: tables of slices, and drawing some of them."""

from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
from msgspec.structs import replace

from poscon.csv_tables import read_table
from poscon.errors import PosconError
from poscon.files import whole_number
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.volumes.case import IGNORE

COLUMNS = ("case", "slice")
"""The columns that a table of slices must have."""
FILE_SLICE = "file_slice"
"""The column of the numbers in the scans' files, in a table of ``poscon suggest``. There ``slice``
is the number in the store."""
NONEMPTY: Final = "nonempty"
"""Word in place of a table of slices: a slice is labelled if it has foreground."""
LabelledSlices = tuple[int, ...] | Literal["nonempty"]
"""Numbers of the labelled slices of a label map, in the order of the file, or ``NONEMPTY``."""
ROUNDING = 1e-9  # products of distances this close are equal


def read_slice_table(path: Path, *, in_files: bool = False) -> dict[str, tuple[int, ...]]:
    """A table of slices: the numbers of each case's slices, rising, each once.

    Args:
        path: a CSV file with the columns ``case`` (the id of a case) and ``slice`` (counted from
            0). Other columns are passed over.
        in_files: whether the slices of the scans' files are wanted. Then the column ``file_slice``
            is read in place of ``slice`` if there is one.

    Raises:
        PosconError: the file cannot be read, lacks a column, has no slice, a row with other
            columns, or a number that is none.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for where, row in read_table(path, COLUMNS):
        text = row["slice"]
        if in_files:
            text = row.get(FILE_SLICE, text)
        number = whole_number(text)
        if number is None:
            raise PosconError(
                f"{where}: {text[:40]!r} is no slice number; write whole numbers from 0"
            )
        found[row["case"]].add(number)
    if not found:
        raise PosconError(f"{path}: names no slice")
    return {case: tuple(sorted(numbers)) for case, numbers in found.items()}


def check_slice_table(
    table: Mapping[str, Sequence[int]], n_slices: Mapping[str, int], *, where: str, what: str
) -> None:
    """Refuse a table that names a case or a slice which there is not.

    Args:
        table: the numbers of each case's slices.
        n_slices: how many slices each case has.
        where: what to name in an error message.
        what: the name of all the cases together, for an error message.

    Raises:
        PosconError: it does.
    """
    for case, numbers in table.items():
        if case not in n_slices:
            raise PosconError(f"{where}: there is no case {case!r} among {what}")
        if max(numbers) >= n_slices[case]:
            raise PosconError(
                f"{where}: case {case} has no slice {max(numbers)}, its slices are 0 to "
                f"{n_slices[case] - 1}"
            )


def check_nonempty(ignore: int | None, labelled_slices: object, *, where: str) -> None:
    """Refuse ``NONEMPTY`` where a label value says already what is not labelled.

    Args:
        ignore: that value, or None.
        labelled_slices: what the user says of the labelled slices.
        where: what to name in an error message.

    Raises:
        PosconError: both are given.
    """
    if ignore is not None and labelled_slices == NONEMPTY:
        raise PosconError(
            f"{where}: --labelled-slices {NONEMPTY}: the label {ignore} says already what "
            "is not labelled, and leaves empty slices labelled; leave one of the two out"
        )


def only_slices(stack: np.ndarray, labelled: LabelledSlices, *, backwards: bool) -> np.ndarray:
    """A label map of which only some slices are labelled.

    Args:
        stack: (slices, rows, columns) uint8, class indices; ``IGNORE`` where a voxel is not
            labelled.
        labelled: the slices.
        backwards: whether the slices of the stack run against those of the file.

    Returns:
        A new array of the same shape, with ``IGNORE`` in every other slice.
    """
    if isinstance(labelled, tuple):
        kept = np.zeros(len(stack), bool)
        kept[list(labelled)] = True
        kept = kept[::-1] if backwards else kept
    else:
        kept = ((stack != 0) & (stack != IGNORE)).any(axis=(1, 2))
    return np.where(kept[:, None, None], stack, np.uint8(IGNORE))


def with_slices(store: Store, case: CaseRecord, numbers: Sequence[int]) -> CaseRecord:
    """A labelled case of which only some of the labelled slices count as labelled.

    Args:
        store: that holds the case.
        case: its record.
        numbers: numbers of the slices, rising; at least one.
    """
    if len(numbers) == case.n_labelled_slices:
        return case
    label = store.label(case)
    n_classes = len(store.class_names) + 1
    voxels = np.zeros(n_classes, np.int64)
    for number in numbers:
        voxels += np.bincount(label[number].ravel(), minlength=n_classes)[:n_classes]
    return replace(
        case, labelled_slices=tuple(map(int, numbers)), class_voxels=tuple(voxels[1:].tolist())
    )


def choose_slices(
    store: Store, cases: Sequence[CaseRecord], table: Mapping[str, Sequence[int]], *, where: str
) -> list[CaseRecord]:
    """The cases of a table, of each the slices that it names; the numbers are the store's.

    Args:
        store: that holds the cases.
        cases: the labelled cases that may be trained on.
        table: the numbers of each case's slices.
        where: what to name in an error message.

    Raises:
        PosconError: a case is not among them, or a slice is not there or not labelled.
    """
    counts = {case.id: case.shape[0] for case in cases}
    what = f"the labelled cases of {store.path} that are left to train on"
    check_slice_table(table, counts, where=where, what=what)
    for case in cases:
        unknown = set(table.get(case.id, ())) - set(case.labelled_slice_numbers.tolist())
        if unknown:
            raise PosconError(
                f"{where}: slice {min(unknown)} of case {case.id} is not labelled in {store.path}"
            )
    return [with_slices(store, case, table[case.id]) for case in cases if case.id in table]


def draw_slices(cases: Sequence[CaseRecord], n: int, seed: int) -> dict[str, tuple[int, ...]]:
    """Draw labelled slices; the draw of n is contained in the draw of n + 1 of the same seed.

    The subjects take turns in a random order, so they have equally many as long as they have
    enough. A place is where a slice is among the labelled ones of its case, from 0 to 1. In its
    turn a subject gives the slice whose place has the largest product of the distance to the
    nearest place drawn of this subject, and of the distance to the nearest place drawn of any. So
    the slices of each subject, and those of all subjects together, are spread evenly. Distances are
    around a circle that joins 1 to 0. Of equals one is drawn at random; so is the first of all.

    Args:
        cases: whose labelled slices are drawn from.
        n: number of slices.
        seed: the run's seed.

    Returns:
        The numbers of each case's drawn slices, rising; cases without any are absent.

    Raises:
        PosconError: there are fewer labelled slices.
    """
    generator = np.random.default_rng(stream(seed, "labelled slices"))
    left: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for case in cases:
        numbers = case.labelled_slice_numbers
        places = (np.arange(len(numbers)) + 0.5) / max(len(numbers), 1)
        left[case.subject] += [
            (place, case.id, number)
            for place, number in zip(places.tolist(), numbers.tolist(), strict=True)
        ]
    available = sum(map(len, left.values()))
    if n > available:
        raise PosconError(
            f"--labelled-slices {n}: there are {available} labelled slices of {len(left)} "
            "subject(s) to draw from; ask for fewer"
        )
    subjects = sorted(left)
    order = [subjects[i] for i in generator.permutation(len(subjects))]
    taken: list[float] = []
    taken_of: dict[str, list[float]] = defaultdict(list)
    drawn: dict[str, list[int]] = defaultdict(list)
    for subject in islice((s for s in cycle(order) if left[s]), n):
        slices = left[subject]
        places = np.array([place for place, _, _ in slices])
        apart = _distances(places, taken) * _distances(places, taken_of[subject])
        best = np.flatnonzero(apart >= apart.max() - ROUNDING)
        place, case_id, number = slices.pop(int(generator.choice(best)))
        insort(taken, place)
        insort(taken_of[subject], place)
        drawn[case_id].append(number)
    return {case: tuple(sorted(numbers)) for case, numbers in drawn.items()}


def _distances(places: np.ndarray, taken: Sequence[float]) -> np.ndarray:
    """(N,): from each place to the nearest one taken, around a circle of length 1; 1 if none is.

    Args:
        places: (N,), from 0 to 1.
        taken: rising.
    """
    if not taken:
        return np.ones(len(places))
    around = np.array([taken[-1] - 1, *taken, taken[0] + 1])
    after = np.searchsorted(around, places)
    return np.minimum(np.abs(around[after] - places), np.abs(places - around[after - 1]))
