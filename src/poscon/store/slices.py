"""Which slices are labelled: tables of slices, and drawing some of them."""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.seeds import stream
from poscon.store.store import CaseRecord, Store

COLUMNS = ("case", "slice")
"""Of a table of slices."""


def read_slice_table(path: Path) -> dict[str, tuple[int, ...]]:
    """A table of slices: the numbers of each case's slices, rising, each once.

    Args:
        path: a CSV file with the columns ``case`` (the id of a case) and ``slice`` (counted from
            0). Other columns are passed over.

    Raises:
        PosconError: the file cannot be read, lacks a column, has no slice, or a number that is
            none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            rows = [] if absent else [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PosconError(f"{path}: cannot read the table of slices ({error})") from error
    if absent:
        raise PosconError(
            f"{path}: has no column {absent[0]!r}; a table of slices has the first line 'case,slice'"
        )
    found: dict[str, set[int]] = defaultdict(set)
    for line, row in rows:
        text = (row["slice"] or "").strip()
        if not (text.isascii() and text.isdigit()):
            raise PosconError(
                f"{path}: line {line}: {text!r} is no slice number; write whole numbers from 0"
            )
        found[(row["case"] or "").strip()].add(int(text))
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
        what: what the cases are, for the message.

    Raises:
        PosconError: it does.
    """
    for case, numbers in table.items():
        if case not in n_slices:
            raise PosconError(f"{where}: {case!r} is no {what}")
        if max(numbers) >= n_slices[case]:
            raise PosconError(
                f"{where}: case {case} has no slice {max(numbers)}, its slices are 0 to "
                f"{n_slices[case] - 1}"
            )


def with_slices(store: Store, case: CaseRecord, numbers: Sequence[int]) -> CaseRecord:
    """A labelled case of which only some of the labelled slices count as labelled.

    Args:
        store: that holds the case.
        case: its record.
        numbers: of the slices, rising; at least one.
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
    what = f"labelled case of {store.path} that is left to train on"
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

    The subjects take turns in a random order. In turn m of subject j, with u random, the slice is
    the one whose relative place among the subject's labelled slices is nearest to

        t = frac(u + j phi + m sqrt(2)),    phi = (1 + sqrt(5)) / 2

    that has not been drawn. So at any n the subjects have equally many slices, as long as they have
    enough, and the slices of each subject, and those of all subjects, are spread evenly (an
    additive recurrence, see Kuipers & Niederreiter 1974, Ch. 2).

    Args:
        cases: whose labelled slices are drawn from.
        n: number of slices.
        seed: of the run.

    Returns:
        The numbers of each case's drawn slices, rising; cases without any are absent.

    Raises:
        PosconError: there are fewer labelled slices.
    """
    generator = np.random.default_rng(stream(seed, "labelled slices"))
    # of each subject: place, case and number of every labelled slice
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
    offset = generator.random()
    drawn: dict[str, list[int]] = defaultdict(list)
    turns = ((m, j, subject) for m in count() for j, subject in enumerate(order) if left[subject])
    for m, j, subject in islice(turns, n):
        target = (offset + j * (1 + math.sqrt(5)) / 2 + m * math.sqrt(2)) % 1
        places = np.array([place for place, _, _ in left[subject]])
        _, case_id, number = left[subject].pop(int(np.abs(places - target).argmin()))
        drawn[case_id].append(number)
    return {case: tuple(sorted(numbers)) for case, numbers in drawn.items()}
