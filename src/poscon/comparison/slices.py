"""Simulated labelling: which slices of a fold's training subjects count as labelled."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from poscon.comparison.plan_parts import PATIENTS
from poscon.errors import PosconError
from poscon.files import read_csv, whole_number
from poscon.models import FeatureExtractor, Model
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.slices import draw_slices
from poscon.store.store import Store
from poscon.suggestion import find_strategy
from poscon.suggestion.base import Pool
from poscon.suggestion.features import check_fits, slice_features, slice_uncertainty
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
    *,
    model: Path | None = None,
    before: Sequence[Chosen] = (),
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
        device: where the networks run, ``auto``, ``cpu`` or ``cuda``; None: ``auto``.
        model: run of the fine-tuning that is to be uncertain of the slices; None: no model.
        before: slices that are labelled already, fewer than ``number``. The choice begins with
            them. Not for ``patients``.

    Returns:
        Different slices, the first to label first.

    Raises:
        PosconError: the encoder or the model cannot be used.
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
    uncertainty = None
    if model is not None:
        network = Model(model, device or "auto")
        uncertainty = slice_uncertainty(store, cases, network, stream(seed, "views"))[known]
    at = [(slices.cases[slices.case_of[row]], int(slices.slice_of[row])) for row in known]
    shown = {(case.id, each) for case, each in before}
    labelled = np.array([(case.id, each) in shown for case, each in at])
    pool = Pool(slices.subject_of[known], labelled, slices.middles[known], embeddings, uncertainty)
    choices = find_strategy(strategy)().choose(pool, number - len(before), seed)
    return [*before, *(at[choice.row] for choice in choices)]


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


def read_chosen(path: Path, cases: Sequence[CaseRecord]) -> list[Chosen]:
    """Read the text of :func:`slice_table` back from a file, in its order.

    Args:
        path: the file.
        cases: the cases that it names, or more.

    Raises:
        PosconError: there is no such file, or it is damaged.
    """
    of_id = {case.id: case for case in cases}
    if not path.is_file():
        raise PosconError(
            f"{path}: no such file, but the next round adds to its slices; remove the runs of the "
            "round and begin again"
        )
    chosen = []
    for row in read_csv(path, COLUMNS):
        case, number = of_id.get(row["case"]), whole_number(row["slice"])
        if case is None or number is None or number >= case.shape[0]:
            raise PosconError(
                f"{path}: damaged (case {row['case']!r} has no slice {row['slice'][:40]!r}); "
                "remove it"
            )
        chosen.append((case, number))
    return chosen
