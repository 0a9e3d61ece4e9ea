"""Folds: the subjects to learn from and the subjects to test on. The guard against leakage."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poscon.comparison.plan import Plan
from poscon.comparison.plan_parts import FoldFiles
from poscon.errors import PosconError
from poscon.store.manifest import CaseRecord
from poscon.store.names import read_names
from poscon.store.selection import subject_order
from poscon.store.store import Store
from poscon.volumes.layouts import folder_of_paths


@dataclass(frozen=True)
class Fold:
    """Subjects to learn from and subjects to test on. No subject is both.

    Attributes:
        number: number of the fold, from 0.
        train: subjects to learn from, in the order of the file that lists them, else by name.
        test: subjects to test on, in the same order. Each of them has a labelled case.
    """

    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(plan: Plan, store: Store, folder: Path) -> list[Fold]:
    """Make the folds of a plan.

    Drawn folds divide the labelled subjects evenly. Subjects without labels are in every training
    part. A subject is tested on in one fold at most, so that results of all folds can be pooled.

    Args:
        plan: the plan.
        store: the data of the plan, prepared.
        folder: folder of the files that name subjects.

    Raises:
        PosconError: there are more folds than subjects, a name is unknown, a subject is in two
            test parts or in both parts of one fold, or a test subject has no labels.
    """
    labelled = {case.subject for case in store.cases if case.labelled}
    everyone = tuple(sorted({case.subject for case in store.cases}))
    if isinstance(plan.folds, int):
        order = sorted(labelled)
        if plan.folds > len(order):
            raise PosconError(
                f"{folder}: {plan.folds} folds of {len(order)} labelled subjects; each fold tests "
                f"on at least one and learns from others; label more"
                f"{', or ask for fewer folds' if len(order) > 1 else ''}"
            )
        shuffled = np.random.default_rng(plan.seed).permutation(order)
        parts = [{str(name) for name in part} for part in np.array_split(shuffled, plan.folds)]
        return [
            Fold(i, tuple(s for s in everyone if s not in part), tuple(sorted(part)))
            for i, part in enumerate(parts)
        ]
    folds = [
        _listed_fold(number, files, store, folder, everyone)
        for number, files in enumerate(plan.folds)
    ]
    tested: dict[str, int] = {}
    for fold in folds:
        for subject in fold.test:
            if subject not in labelled:
                raise PosconError(
                    f"{_place(plan.folds[fold.number].test, folder)}: subject {subject} has no "
                    "label map to be tested by"
                )
            if subject in tested:
                raise PosconError(
                    f"folds: subject {subject} is in the test sets of folds {tested[subject]} and "
                    f"{fold.number}; a subject can be tested on once"
                )
            tested[subject] = fold.number
    return folds


def _listed_fold(
    number: int, files: FoldFiles, store: Store, folder: Path, everyone: Sequence[str]
) -> Fold:
    test = _subjects(files.test, store, folder)
    if files.train is None:
        train = tuple(s for s in everyone if s not in test)
    else:
        train = _subjects(files.train, store, folder)
    if both := sorted(set(train) & set(test)):
        raise PosconError(
            f"{_place(files.test, folder)}: subject {both[0]} is in the training set of the fold "
            "too; take it out of one of them"
        )
    if not train:
        raise PosconError(f"{_place(files.test, folder)}: no subject is left to learn from")
    return Fold(number, train, test)


def check_fold_files(plan: Plan, folder: Path) -> None:
    """Refuse a plan that names a file of subjects which cannot be read.

    Args:
        plan: the plan.
        folder: folder of the data, or their table. The files lie there if their paths are not
            absolute.

    Raises:
        PosconError: there is such a file, or it names nobody.
    """
    for files in () if isinstance(plan.folds, int) else plan.folds:
        for names in (files.test, files.train):
            if names is not None:
                read_names(_place(names, folder))


def _subjects(names: str, store: Store, folder: Path) -> tuple[str, ...]:
    """The subjects that a file names, in the order of the file."""
    where = _place(names, folder)
    listed = read_names(where)
    of = {case.id: case.subject for case in store.select(listed, where=where)}
    known = set(of.values())
    return tuple(dict.fromkeys(name if name in known else of[name] for name in listed))


def _place(names: str, folder: Path) -> str:
    return names if Path(names).is_absolute() else str(folder_of_paths(folder) / names)


def draw_labelled(
    plan: Plan, fold: Fold, labelled: int, draw: int, store: Store
) -> list[CaseRecord]:
    """The labelled cases of one draw.

    They are the same for all methods. A smaller number of subjects is part of a larger one.

    Raises:
        PosconError: the fold has fewer labelled subjects to learn from.
    """
    order = drawn_order(plan, fold, draw, store)
    if labelled > len(order):
        raise PosconError(
            f"labelled = {labelled}: fold {fold.number} has {len(order)} labelled subjects to "
            f"learn from, of {len({c.subject for c in store.cases if c.labelled})} that there are; "
            f"label more, or ask for {len(order)} at most with -s 'labelled=[...]'"
        )
    return [case for case in store.cases if case.labelled and case.subject in order[:labelled]]


def drawn_order(plan: Plan, fold: Fold, draw: int, store: Store) -> list[str]:
    """The labelled subjects that a fold learns from, the first to be labelled first."""
    of_train = [case for case in store.cases if case.subject in fold.train and case.labelled]
    if plan.order == "random":
        return subject_order(of_train, plan.seed + draw)
    available = {case.subject for case in of_train}
    return [subject for subject in fold.train if subject in available]


def check_leakage(
    test: Iterable[CaseRecord], roles: Mapping[str, Iterable[CaseRecord]], fold: Fold
) -> None:
    """Refuse a fold in which a scan that is tested on has been seen. Names do not matter.

    Args:
        test: cases that are tested on.
        roles: cases that are learnt from, by role.
        fold: the fold, for the message.

    Raises:
        PosconError: a tested case has the same voxels as a case that is learnt from. The message
            names the cases.
    """
    if found := shared_scans(test, roles):
        shown = "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")
        raise PosconError(
            f"fold {fold.number}: {len(found)} scan(s) are tested on and learnt from: {shown}; "
            "remove one of the two, or put both into the same fold"
        )


def shared_scans(
    test: Iterable[CaseRecord], roles: Mapping[str, Iterable[CaseRecord]]
) -> list[str]:
    """A line ``TEST CASE = OTHER CASE (role)`` for each pair with the same voxels."""
    tested: dict[str, list[str]] = {}
    for case in test:
        tested.setdefault(case.pixels_sha256, []).append(case.id)
    return [
        f"{name} = {case.id} ({role})"
        for role, cases in roles.items()
        for case in cases
        for name in tested.get(case.pixels_sha256, [])
    ]
