"""Simulated labelling: which slices of a fold's training subjects count as labelled."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from poscon.comparison.plan import PATIENTS
from poscon.models import FeatureExtractor
from poscon.store.slices import draw_slices
from poscon.store.store import CaseRecord, Store
from poscon.suggestion import find_strategy
from poscon.suggestion.base import Pool
from poscon.suggestion.features import check_fits, slice_features
from poscon.suggestion.pool import Slices, unit

SLICES = "slices"
COLUMNS = ("rank", "case", "subject", "slice")

Chosen = tuple[CaseRecord, int]
"""A case, and the number of its slice, as in the store."""


def choose(
    store: Store,
    cases: Sequence[CaseRecord],
    strategy: str,
    number: int,
    seed: int,
    init: Path | None = None,
    device: str | None = None,
) -> list[Chosen]:
    """Choose slices as if none of them were labelled.

    Args:
        store: that holds the cases.
        cases: labelled ones. Only their labelled slices can be chosen. For ``patients`` in the
            order in which the subjects are labelled.
        strategy: its name.
        number: how many slices to choose; there are as many.
        seed: every random choice follows from it.
        init: run of the pre-training whose encoder the strategy needs; None if it needs none.
        device: where the encoder runs, ``auto``, ``cpu`` or ``cuda``; None: ``auto``.

    Returns:
        Different slices, the first to label first.

    Raises:
        PosconError: the encoder cannot be used.
    """
    if strategy == PATIENTS:
        return patients(cases, number, seed)
    slices = Slices.of(cases)
    known = np.flatnonzero(slices.labelled)
    embeddings = None
    if init is not None:
        encoder = FeatureExtractor(init, device or "auto")
        check_fits(store, encoder, str(init))
        embeddings = unit(slice_features(store, cases, encoder))[known]
    hidden = np.zeros(len(known), bool)
    pool = Pool(slices.subject_of[known], hidden, slices.middles[known], embeddings)
    rows = [known[choice.row] for choice in find_strategy(strategy)().choose(pool, number, seed)]
    return [(slices.cases[slices.case_of[row]], int(slices.slice_of[row])) for row in rows]


def patients(cases: Sequence[CaseRecord], number: int, seed: int) -> list[Chosen]:
    """All labelled slices of the first subjects, until there are enough.

    Of the last subject as many as are missing, spread evenly by
    :func:`poscon.store.slices.draw_slices`. A smaller number of slices is part of a larger one.

    Args:
        cases: labelled ones, in the order of the subjects.
        number: how many slices; there are as many.
        seed: seed of the spread.
    """
    chosen: list[Chosen] = []
    for subject in dict.fromkeys(case.subject for case in cases):
        of_subject = [case for case in cases if case.subject == subject]
        left = number - len(chosen)
        wanted = min(left, n_slices(of_subject))
        if wanted:
            drawn = draw_slices(of_subject, wanted, seed)
            chosen += [(case, each) for case in of_subject for each in drawn.get(case.id, ())]
    return chosen


def n_slices(cases: Sequence[CaseRecord]) -> int:
    """How many labelled slices cases have."""
    return sum(case.n_labelled_slices for case in cases)


def slice_table(chosen: Sequence[Chosen]) -> str:
    """The text of a table of slices, which ``finetune --labelled-slices`` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(
        (rank, case.id, case.subject, each) for rank, (case, each) in enumerate(chosen, start=1)
    )
    return text.getvalue()
