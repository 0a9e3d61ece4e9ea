"""The runs of a plan. A run is identified by what determines it, so that only what is missing or
changed is done again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from poscon.comparison.folds import (
    Fold,
    check_leakage,
    draw_labelled,
    make_folds,
    shared_scans,
)
from poscon.comparison.plan import RANDOM, Entry, Plan, Size, naming, row_name
from poscon.errors import PosconError
from poscon.finetuning import find_method
from poscon.networks.build import build_network
from poscon.networks.settings import fit_channels
from poscon.store.selection import slice_size
from poscon.store.store import CaseRecord, Store
from poscon.training.finetune_settings import make_learner
from poscon.training.pretrain_settings import assemble
from poscon.version import __version__
from poscon.views import ViewMaker

Command = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class Job:
    """One training, and for a fine-tuning what is done with its model.

    Attributes:
        name: of its folder: readable, then a hash of all that determines it.
        command: ``pretrain`` or ``finetune``.
        settings: of the training, resolved.
        cases: case ids by role: ``pretrain``; or ``labelled``, ``unlabelled`` if the method uses
            them, ``validation`` if they are to be watched, ``test``.
        init: name of the pre-training that it starts from, or None.
        pretraining, finetuning: names of the plan's entries.
        labelled: number of labelled subjects, of a fine-tuning.
        fold: number; None if a pre-training is of all folds.
        draw: number, of a fine-tuning.
    """

    name: str
    command: Command
    settings: dict[str, Any]
    cases: dict[str, tuple[str, ...]]
    pretraining: str
    init: str | None = None
    finetuning: str | None = None
    labelled: int | None = None
    fold: int | None = None
    draw: int | None = None

    @property
    def row(self) -> str:
        """The row of the tables that a fine-tuning is of."""
        return row_name(self.pretraining, str(self.finetuning))


@dataclass(frozen=True)
class Schedule:
    """All runs of a plan.

    Attributes:
        jobs: in the order in which they are wanted; a pre-training before what starts from it.
        folds: who is tested on in which.
        protocol: one sentence on what pre-training saw of the test scans.
        transductive: whether it saw any.
    """

    jobs: tuple[Job, ...]
    folds: tuple[Fold, ...]
    protocol: str
    transductive: bool

    @property
    def finetunings(self) -> list[Job]:
        return [job for job in self.jobs if job.command == "finetune"]

    def as_record(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """What :meth:`as_record` gave.

        Raises:
            KeyError, TypeError: it is of another form.
        """

        def tuples(cases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
            return {role: tuple(members) for role, members in cases.items()}

        return cls(
            jobs=tuple(Job(**{**job, "cases": tuples(job["cases"])}) for job in record["jobs"]),
            folds=tuple(
                Fold(fold["number"], tuple(fold["train"]), tuple(fold["test"]))
                for fold in record["folds"]
            ),
            protocol=record["protocol"],
            transductive=record["transductive"],
        )


def make_schedule(plan: Plan, store: Store, folder: Path, source: Store | None = None) -> Schedule:
    """Everything that a plan asks for, checked against its data before any of it is done.

    Args:
        plan: what to do.
        store: the data to fine-tune and test on, prepared.
        folder: where that data lies, and files that name its subjects.
        source: of a transfer, the data to pre-train on, prepared.

    Raises:
        PosconError: the plan does not fit the data, or a scan would be learnt from and tested on.
    """
    folds = make_folds(plan, store, folder)
    builder = _Builder(plan, store, source)
    jobs: dict[str, Job] = {}
    for fold in folds:
        for draw in range(plan.draws):
            for labelled in plan.labelled:
                for job in builder.cell(fold, labelled, draw):
                    jobs.setdefault(job.name, job)
    protocol, transductive = builder.protocol(folds)
    return Schedule(tuple(jobs.values()), tuple(folds), protocol, transductive)


class _Builder:
    def __init__(self, plan: Plan, store: Store, source: Store | None) -> None:
        self.plan, self.store, self.source = plan, store, source
        self.pretrained = any(entry.method != RANDOM for entry in plan.pretraining)
        self._checked: set[tuple[str, str | int]] = set()

    def cell(self, fold: Fold, labelled: int, draw: int) -> list[Job]:
        """The runs of one draw of labelled subjects: every start, every fine-tuning."""
        test = self._of(fold.test, labelled=True)
        drawn = draw_labelled(self.plan, fold, labelled, draw, self.store)
        without = [c for c in self._of(fold.train) if c not in drawn]
        roles = {"labelled": drawn, "unlabelled": without}
        learnt = dict(roles)
        if self.pretrained and not self.plan.transductive:
            learnt["pre-training"] = self._pretraining_cases(fold)
        check_leakage(test, learnt, fold)
        jobs = []
        for init_entry, entry in self.plan.combinations:
            before = self._pretraining(init_entry, fold)
            jobs += [] if before is None else [before]
            jobs.append(self._finetuning(init_entry, before, entry, fold, labelled, draw, roles))
        return jobs

    def protocol(self, folds: Sequence[Fold]) -> tuple[str, bool]:
        """What pre-training sees of what is tested on, as a sentence, and whether it is anything.

        Raises:
            PosconError: the plan allows what does not happen.
        """
        if not self.pretrained:
            return "Nothing was pre-trained.", False
        n_seen = 0
        for fold in folds:
            known = {case.pixels_sha256 for case in self._pretraining_cases(fold)}
            n_seen += sum(c.pixels_sha256 in known for c in self._of(fold.test, labelled=True))
        if self.plan.transductive:
            if not n_seen:
                raise PosconError(
                    "transductive: has no effect, no scan that is tested on is pre-trained on"
                )
            return (
                f"Transductive: pre-training saw {n_seen} test scans, without their labels. "
                "Results on new patients may be worse.",
                True,
            )
        where = "of the fold" if self.source is None else "of another data set"
        return (
            f"Inductive: pre-training saw only training subjects {where}. No training saw a test "
            "scan, under any name (scans were compared by their voxels).",
            False,
        )

    def _size(self, init_entry: Entry) -> Size:
        """What covers the slices of the whole set, so that folds agree, if nobody says."""
        stride = self.plan.pretrain_settings(init_entry, "auto").network.stride
        return slice_size(self.store.cases, "auto", stride)

    def _of(self, subjects: Sequence[str], labelled: bool = False) -> list[CaseRecord]:
        wanted = set(subjects)
        return [c for c in self.store.cases if c.subject in wanted and (c.labelled or not labelled)]

    def _pretraining_cases(self, fold: Fold) -> list[CaseRecord]:
        if self.source is not None:
            return list(self.source.cases)
        return list(self.store.cases) if self.plan.transductive else self._of(fold.train)

    def _pretraining(self, entry: Entry, fold: Fold) -> Job | None:
        if entry.method == RANDOM:
            return None
        shared = self.source is not None or self.plan.transductive  # by all folds
        told = self.plan.pretrain_settings(entry, self._size(entry))
        cases = self._pretraining_cases(fold)
        size = slice_size(cases, told.size, told.network.stride)
        if (entry.name, fold.number) not in self._checked:
            with naming("pretrain", entry):
                assemble(told, self.source or self.store, cases, size)
            self._checked.add((entry.name, fold.number))
        return _job(
            "pretrain",
            "all" if shared else f"fold{fold.number}",
            told.model_dump(mode="json"),
            {"pretrain": cases},
            pretraining=entry.name,
            fold=None if shared else fold.number,
        )

    def _finetuning(
        self,
        init_entry: Entry,
        before: Job | None,
        entry: Entry,
        fold: Fold,
        labelled: int,
        draw: int,
        roles: Mapping[str, list[CaseRecord]],
    ) -> Job:
        cases = {"labelled": roles["labelled"]}
        if find_method(entry.method).uses_unlabelled:
            if not roles["unlabelled"]:
                raise PosconError(
                    f"labelled = {labelled}: leaves fold {fold.number} no case without labels, "
                    f"which {entry.method} needs; ask for fewer"
                )
            cases["unlabelled"] = roles["unlabelled"]
        cases["test"] = self._of(fold.test, labelled=True)
        if self.plan.flaws.select_on_test:
            cases["validation"] = cases["test"]
        told = self.plan.finetune_settings(entry, init_entry, draw, self._size(init_entry))
        assert told.network is not None
        size = slice_size(roles["labelled"], told.size, told.network.stride)
        if (init_entry.name, entry.name) not in self._checked:
            fitted = fit_channels(told.network, self.store.channels, self.store.path)
            network = build_network(fitted, len(self.store.class_names) + 1)
            with naming("finetune", entry):
                make_learner(told, network, ViewMaker(told.views, size, self.store.channels))
            self._checked.add((init_entry.name, entry.name))
        settings = told.model_dump(mode="json")
        if before is not None and "validation" in cases:
            seen = shared_scans(cases["test"], {"": self._pretraining_cases(fold)})
            settings["transductive"] = bool(seen)
        return _job(
            "finetune",
            f"fold{fold.number}-draw{draw}-m{labelled}",
            settings,
            cases,
            pretraining=init_entry.name,
            init=None if before is None else before.name,
            finetuning=entry.name,
            labelled=labelled,
            fold=fold.number,
            draw=draw,
        )


def _job(
    command: Command,
    label: str,
    settings: dict[str, Any],
    cases: Mapping[str, Sequence[CaseRecord]],
    *,
    pretraining: str,
    finetuning: str | None = None,
    init: str | None = None,
    **rest: Any,
) -> Job:
    determined_by = {
        "poscon_version": __version__,
        "command": command,
        # where it is computed does not determine it
        "settings": {key: value for key, value in settings.items() if key != "device"},
        "cases": {
            role: [[c.id, c.stored_sha256] for c in members] for role, members in cases.items()
        },
        "init": init,
    }
    text = json.dumps(determined_by, sort_keys=True)
    methods = "-".join(name for name in (pretraining, finetuning) if name is not None)
    return Job(
        name=f"{command}-{label}-{methods}-{hashlib.sha256(text.encode()).hexdigest()[:10]}",
        command=command,
        settings=settings,
        cases={role: tuple(c.id for c in members) for role, members in cases.items()},
        pretraining=pretraining,
        finetuning=finetuning,
        init=init,
        **rest,
    )
