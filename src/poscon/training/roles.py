"""Which cases a fine-tuning trains on, with and without labels, and which it is validated on."""

from dataclasses import dataclass
from pathlib import Path

from poscon.errors import PosconError
from poscon.finetuning import METHODS, find_method
from poscon.progress import console
from poscon.store.manifest import CaseRecord
from poscon.store.names import Names, names_place, read_names
from poscon.store.selection import choose_cases, draw_subjects, leave_out
from poscon.store.slices import choose_slices, draw_slices, read_slice_table, with_slices
from poscon.store.store import Store, labelled_voxels

LEARNS_FROM_ALL = "fixmatch"
"""The default method where cases without labels are used."""
FEW = 3
"""With at most so many labelled subjects, cases without labels are used by default."""

Roles = dict[str, list[CaseRecord]]
"""Cases by role: ``labelled``, and where there are such ``unlabelled`` and ``validation``."""


@dataclass(frozen=True)
class Selection:
    """The cases that a fine-tuning is given.

    Attributes:
        cases: the cases or subjects to use or draw from; None: all labelled ones.
        exclude: the subjects to leave out.
        unlabelled: the cases to use without their labels; None: the rest of the cases to draw from.
        validation: the cases to set apart for validation.
        labelled: how many labelled subjects to draw; None: all.
        labelled_slices: how many labelled slices to draw of these subjects, or a file that names
            them; None: all.
    """

    cases: Names | None = None
    exclude: Names | None = None
    unlabelled: Names | None = None
    validation: Names | None = None
    labelled: int | None = None
    labelled_slices: int | Path | str | None = None


def choose_roles(store: Store, selection: Selection, seed: int, *, pretrained: bool) -> Roles:
    """Choose the cases of each role.

    Never is a subject that is validated on trained on too. ``labelled`` are the cases that are
    trained on with their labels. ``unlabelled`` are the others, for methods that use such; the role
    is absent where there are none. After a pre-training ``exclude`` also says what that may not
    have seen, so that it need not name any case that could be chosen here.

    Args:
        store: that holds the cases.
        selection: what the user asks for.
        seed: seed of the draws.
        pretrained: whether the training starts from a pre-training run.

    Raises:
        PosconError: a selection that cannot be used.
    """
    labelled, few = selection.labelled, selection.labelled_slices
    if isinstance(few, int) and few < 1:
        raise PosconError(f"--labelled-slices {few}: give 1 or more")
    if labelled is not None and not isinstance(few, int | None):
        raise PosconError(f"--labelled: has no effect, {few} names the labelled slices")
    if not any(c.labelled for c in store.cases):
        raise PosconError(
            f"{store.path}: has no label maps; add some with poscon label to fine-tune on them"
        )
    pool = choose_cases(store, selection.cases, None)
    given = selection.unlabelled
    rest = pool if given is None else choose_cases(store, given, None)
    if selection.exclude is not None:
        pool, rest = leave_out(store, selection.exclude, pool, rest, needed=not pretrained)
    roles: Roles = {}
    if selection.validation is not None:
        roles["validation"] = _validation_cases(store, selection.validation)
        subjects = {c.subject for c in roles["validation"]}
        pool, rest = ([c for c in part if c.subject not in subjects] for part in (pool, rest))
    pool = [c for c in pool if c.labelled]
    if labelled is None:
        labelled = len({c.subject for c in pool})
    if labelled < 1:
        raise PosconError(f"{store.path}: no labelled subject to train on is left or asked for")
    drawn = _few_slices(store, draw_subjects(pool, labelled, seed), few, seed)
    roles = {"labelled": drawn, **roles}
    _check_foreground(store, roles, few)
    names = {c.id for c in drawn}
    unlabelled = [c for c in rest if c.id not in names]
    if given is not None and (both := len(rest) - len(unlabelled)):
        console.print(
            f"note: {both} of the cases of {names_place(given)} are among the labelled ones, so "
            "their labels are used; name with --cases which ones may be labelled",
            soft_wrap=True,
            markup=False,
        )
    if unlabelled or given is not None:
        roles["unlabelled"] = unlabelled
    return roles


def default_method(roles: Roles, selection: Selection) -> str:
    """The fine-tuning method where none is stated. A note says if it is not ``supervised``.

    It is :data:`LEARNS_FROM_ALL` where there are cases without labels, and at most :data:`FEW`
    subjects are labelled or the user names these cases (docs/decisions/0052).

    Args:
        roles: see :func:`choose_roles`.
        selection: what they were chosen by.
    """
    n = len({case.subject for case in roles["labelled"]})
    others = len(roles.get("unlabelled", ()))
    if not others or (n > FEW and selection.unlabelled is None):
        return "supervised"
    console.print(
        f"note: method {LEARNS_FROM_ALL}, because {n} subject(s) are labelled: it also learns from "
        f"{others} case(s) without labels; --method supervised leaves them out, and a step takes "
        "less than half as long",
        soft_wrap=True,
        markup=False,
    )
    return LEARNS_FROM_ALL


def roles_of_method(store: Store, roles: Roles, selection: Selection, method: str) -> Roles:
    """The roles that a method uses. A note says if it does not use ranges that there are.

    Args:
        store: that holds the cases.
        roles: see :func:`choose_roles`.
        selection: what they were chosen by.
        method: name of a fine-tuning method.

    Raises:
        PosconError: it needs cases without labels and there are none, or it has no use for those
            that the user names.
    """
    _say_unused_ranges(roles, method)
    if not find_method(method).uses_unlabelled:
        if selection.unlabelled is not None:
            raise PosconError(f"--unlabelled: has no effect with method {method}")
        return {role: cases for role, cases in roles.items() if role != "unlabelled"}
    # the other slices of a partly labelled case are enough, but then --unlabelled has no effect
    partly = selection.unlabelled is None and any(c.partly_labelled for c in roles["labelled"])
    if not roles.get("unlabelled") and not partly:
        given = selection.unlabelled
        place = store.path if given is None else names_place(given)
        raise PosconError(
            f"{place}: method {method} needs "
            "cases to use without labels and none is left that is not drawn as labelled, "
            "excluded or validated on; see --labelled, --cases and --unlabelled"
        )
    return roles


def _say_unused_ranges(roles: Roles, method: str) -> None:
    """A note on stderr if slices without labels have ranges, and the method does not use them."""
    partly = [c for c in roles["labelled"] if c.partly_labelled]
    n = sum(bool(c.ranges) for c in (*roles.get("unlabelled", ()), *partly))
    if n and not find_method(method).uses_ranges:
        using = [name for name in METHODS if find_method(name).uses_ranges]
        console.print(
            f"note: the ranges of {n} case(s) have no effect with method {method}; "
            f"{' and '.join(using)} use them",
            soft_wrap=True,
            markup=False,
        )


def _validation_cases(store: Store, validation: Names) -> list[CaseRecord]:
    """The labelled cases among those that a file or a list names.

    Raises:
        PosconError: one is named that has no label map.
    """
    names = read_names(validation)
    where = names_place(validation)
    watched = store.select(names, where=where)
    with_labels = {c.subject for c in watched if c.labelled}
    for case in watched:  # of a subject that is named, only what is labelled can be meant
        if not case.labelled and (case.id in names or case.subject not in with_labels):
            raise PosconError(f"{where}: case {case.id} has no label map to validate on")
    return [c for c in watched if c.labelled]


def _few_slices(
    store: Store, cases: list[CaseRecord], labelled_slices: int | Path | str | None, seed: int
) -> list[CaseRecord]:
    """The cases that have a labelled slice, and of these only the slices asked for as labelled.

    Args:
        store: that holds the cases.
        cases: labelled ones.
        labelled_slices: see :class:`Selection`.
        seed: seed of the draw.

    Raises:
        PosconError: there are not so many, or the file cannot be used.
    """
    if labelled_slices is None:
        return cases
    if not isinstance(labelled_slices, int):
        path = Path(labelled_slices)
        return choose_slices(store, cases, read_slice_table(path), where=str(path))
    drawn = draw_slices(cases, labelled_slices, seed)
    return [with_slices(store, case, drawn[case.id]) for case in cases if case.id in drawn]


def _check_foreground(
    store: Store, roles: dict[str, list[CaseRecord]], few: int | Path | str | None
) -> None:
    """Refuse label maps without any class; say which classes nobody can learn.

    Labelled slices that a file names may be without any class. Who names them knows what they show,
    and a comparison of ways to choose them has to count those that show nothing.

    Args:
        store: that holds the cases.
        roles: the cases by role.
        few: the labelled slices that are asked for, see :class:`Selection`.

    Raises:
        PosconError: no labelled case has a labelled voxel, or no validation case has.
    """
    for role, cases in roles.items():
        if not cases or any(any(voxels) for _, voxels in labelled_voxels(cases)):
            continue
        drawn, named = isinstance(few, int), isinstance(few, Path | str)
        if role == "labelled" and named:
            continue
        elsewhere = any(any(voxels) for _, voxels in labelled_voxels(store.cases))
        if role == "labelled" and drawn and elsewhere:
            raise PosconError(
                f"--labelled-slices {few}: the drawn slice(s) show no class, such as slice "
                f"{cases[0].labelled_slice_numbers[0]} of {cases[0].id} in the store; give a "
                "larger number, or another --seed"
            )
        raise PosconError(
            f"{store.path}: the label maps of all {len(cases)} {role} case(s) are empty (0 "
            "everywhere), such as that of " + cases[0].id + "; choose cases with labelled "
            "voxels, or correct the label maps and prepare the store again"
        )
    learnt = labelled_voxels(roles["labelled"])
    absent = [
        name
        for i, name in enumerate(store.class_names)
        if not any(voxels[i] for _, voxels in learnt)
    ]
    if absent:
        console.print(
            f"warning: no labelled case has a voxel of {', '.join(absent)}; the model cannot learn "
            "it and will never find it",
            soft_wrap=True,
            markup=False,
        )
