"""The runs of a plan.

A run is identified by what determines it. So only what is missing or changed is done again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from poscon import plugins
from poscon.comparison.folds import (
    Fold,
    check_leakage,
    draw_labelled,
    drawn_order,
    make_folds,
    shared_scans,
)
from poscon.comparison.plan import Plan, Size, naming, row_name
from poscon.comparison.plan_parts import PATIENTS, RANDOM, Entry, StrategyEntry
from poscon.comparison.slices import n_slices
from poscon.errors import PosconError
from poscon.finetuning import find_method
from poscon.networks.build import build_network
from poscon.networks.settings import fit_channels
from poscon.store.manifest import CaseRecord
from poscon.store.selection import slice_size
from poscon.store.store import Store
from poscon.training.finetune_settings import make_learner
from poscon.training.pretrain_settings import assemble
from poscon.version import __version__
from poscon.views import ViewMaker

Command = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class SliceChoice:
    """How the labelled slices of a fine-tuning are chosen.

    Attributes:
        label: name in the tables of the strategy whose row it is.
        strategy: name of the strategy that chooses.
        init: name of the pre-training whose encoder it chooses by, or None.
        table: name of the file of the chosen slices; readable words, then a hash of all that
            determines the choice. All methods that have the same slices share it.
        model: name of the fine-tuning of the round before, whose model the strategy uses, or None.
        before: name of the table of the round before, to whose slices this one adds, or None.
    """

    label: str
    strategy: str
    init: str | None
    table: str
    model: str | None = None
    before: str | None = None

    @property
    def words(self) -> str:
        """The readable words of the table's name, without the hash."""
        return self.table.rpartition("-")[0]


@dataclass(frozen=True)
class Job:
    """One training. The model of a fine-tuning is also tested.

    Attributes:
        name: name of its folder: readable words, then a hash of all that determines the run.
        command: ``pretrain`` or ``finetune``.
        settings: settings of the training, resolved.
        cases: case ids by role. A pre-training has ``pretrain``. A fine-tuning has ``labelled``,
            ``test``, ``unlabelled`` if the method uses them, and ``validation`` if the Dice of
            the test cases is watched. If slices are chosen, ``labelled`` is what they are chosen
            from, and ``unlabelled`` may be empty.
        init: name of the pre-training that it starts from, or None.
        pretraining, finetuning: names of the plan's entries.
        labelled: number of labelled subjects, or of labelled slices if slices are chosen; None
            for a pre-training.
        fold: number of the fold; None for a pre-training that all folds share.
        draw: number of the draw; None for a pre-training.
        slices: how the labelled slices are chosen; None: whole subjects are labelled.
        also: names in the tables of further strategies that have this very run in their rows.
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
    slices: SliceChoice | None = None
    also: tuple[str, ...] = ()

    @property
    def strategy(self) -> str | None:
        """The name in the tables of the strategy that chooses the slices, if they are chosen."""
        return None if self.slices is None else self.slices.label

    @property
    def row(self) -> str:
        """The row of the tables to which a fine-tuning belongs."""
        return row_name(self.pretraining, str(self.finetuning), self.strategy)

    def of_rows(self) -> list["Job"]:
        """The run as each of its rows has it: with the label of the row's strategy."""
        if self.slices is None:
            return [self]
        slices = [self.slices, *(replace(self.slices, label=label) for label in self.also)]
        return [replace(self, slices=chosen) for chosen in slices]

    @property
    def needs(self) -> set[str]:
        """The names of the runs that must be done before."""
        chosen_by = () if self.slices is None else (self.slices.init, self.slices.model)
        return {name for name in (self.init, *chosen_by) if name is not None}


@dataclass(frozen=True)
class Schedule:
    """All runs of a plan.

    Attributes:
        jobs: the runs in the order in which they are wanted. A run comes after those that it
            needs.
        folds: the folds with their subjects.
        protocol: one sentence that says what pre-training saw of the test scans.
        transductive: whether pre-training saw any test scan.
    """

    jobs: tuple[Job, ...]
    folds: tuple[Fold, ...]
    protocol: str
    transductive: bool

    @property
    def finetunings(self) -> list[Job]:
        """The fine-tunings of every row. One that several rows share is there for each of them."""
        return [own for job in self.jobs if job.command == "finetune" for own in job.of_rows()]

    def as_record(self) -> dict[str, Any]:
        """The schedule as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Make a schedule from what :meth:`as_record` gave.

        Raises:
            KeyError, TypeError: the record has another form.
        """

        def tuples(cases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
            return {role: tuple(members) for role, members in cases.items()}

        def job_of(told: Mapping[str, Any]) -> Job:
            slices = told.get("slices")  # a comparison of an earlier version has none
            chosen = None if slices is None else SliceChoice(**slices)
            also = tuple(told.get("also", ()))
            cases = tuples(told["cases"])
            return Job(**{**told, "cases": cases, "slices": chosen, "also": also})

        return cls(
            jobs=tuple(job_of(job) for job in record["jobs"]),
            folds=tuple(
                Fold(fold["number"], tuple(fold["train"]), tuple(fold["test"]))
                for fold in record["folds"]
            ),
            protocol=record["protocol"],
            transductive=record["transductive"],
        )


def make_schedule(plan: Plan, store: Store, folder: Path, source: Store | None = None) -> Schedule:
    """Make every run that a plan asks for, and check the plan against its data.

    Args:
        plan: the plan.
        store: the data to fine-tune and test on, prepared.
        folder: folder of that data, and of the files that name its subjects.
        source: the data to pre-train on, prepared; None: no transfer.

    Raises:
        PosconError: the plan does not fit the data, or a scan would be learnt from and tested on.
    """
    folds = make_folds(plan, store, folder)
    builder = _Builder(plan, store, source)
    jobs: dict[str, Job] = {}
    for fold in folds:
        for draw in range(plan.draws):
            for amount in plan.amounts:
                for strategy in plan.slice_strategies or [None]:
                    for job in builder.cell(fold, amount, strategy, draw):
                        jobs[job.name] = _shared(jobs.get(job.name), job)
    protocol, transductive = builder.protocol(folds)
    return Schedule(tuple(jobs.values()), tuple(folds), protocol, transductive)


class _Builder:
    def __init__(self, plan: Plan, store: Store, source: Store | None) -> None:
        self.plan, self.store, self.source = plan, store, source
        self.pretrained = any(entry.method != RANDOM for entry in plan.pretraining)
        self._checked: set[tuple[str, str | int]] = set()
        self._latest: dict[tuple[int, int, str], Job] = {}
        """The fine-tuning of the latest round, by fold, draw and row."""

    def cell(self, fold: Fold, amount: int, strategy: StrategyEntry | None, draw: int) -> list[Job]:
        """The runs of one draw of labels: every pre-training and every fine-tuning."""
        test = self._of(fold.test, labelled=True)
        if strategy is None:
            drawn = draw_labelled(self.plan, fold, amount, draw, self.store)
        else:
            drawn = self._choosable(fold, amount, strategy, draw)
        ids = {case.id for case in drawn}
        without = [c for c in self._of(fold.train) if c.id not in ids]
        roles = {"labelled": drawn, "unlabelled": without}
        learnt = dict(roles)
        if self.pretrained and not self.plan.transductive:
            learnt["pre-training"] = self._pretraining_cases(fold)
        check_leakage(test, learnt, fold)
        jobs, slices = [], None
        encoder = None if strategy is None else self._encoder(strategy, fold)
        jobs += [] if encoder is None else [encoder]
        for init_entry, entry in self.plan.combinations:
            before = self._pretraining(init_entry, fold)
            jobs += [] if before is None else [before]
            if strategy is not None:
                key = (fold.number, draw, row_name(init_entry.name, entry.name, strategy.label))
                slices = _slice_choice(
                    self.plan.chooser(strategy, amount),
                    strategy.label,
                    encoder,
                    fold,
                    amount,
                    draw,
                    self.plan.seed + draw,
                    drawn,
                    self._latest.get(key),
                )
            job = self._finetuning(init_entry, before, entry, fold, amount, draw, roles, slices)
            if strategy is not None and self.plan.in_rounds(strategy):
                self._latest[key] = job
            jobs.append(job)
        return jobs

    def _choosable(
        self, fold: Fold, amount: int, strategy: StrategyEntry, draw: int
    ) -> list[CaseRecord]:
        """The labelled cases of a fold's training subjects, whose slices a strategy chooses from.

        Raises:
            PosconError: they have fewer labelled slices.
        """
        cases = [case for case in self._of(fold.train) if case.labelled]
        available = n_slices(cases)
        if amount > available:
            raise PosconError(
                f"{self.plan.amounts_key} = {amount}: fold {fold.number} has {available} labelled "
                "slices to learn from; ask for fewer"
            )
        if strategy.name != PATIENTS:
            return cases
        rank = {s: i for i, s in enumerate(drawn_order(self.plan, fold, draw, self.store))}
        return sorted(cases, key=lambda case: rank[case.subject])

    def _encoder(self, strategy: StrategyEntry, fold: Fold) -> Job | None:
        """The pre-training by whose encoder a strategy chooses."""
        if strategy.init is None:
            return None
        entry = next(entry for entry in self.plan.pretraining if entry.name == strategy.init)
        return self._pretraining(entry, fold)

    def protocol(self, folds: Sequence[Fold]) -> tuple[str, bool]:
        """Say in a sentence which test scans pre-training sees, and whether it sees any.

        Raises:
            PosconError: the plan is transductive, but pre-training sees no test scan.
        """
        if not self.pretrained:
            return (
                "Nothing was pre-trained. No training saw a test scan, under any name (scans were "
                "compared by their voxels).",
                False,
            )
        n_seen = 0
        for fold in folds:
            known = {case.pixels_sha256 for case in self._pretraining_cases(fold)}
            n_seen += sum(c.pixels_sha256 in known for c in self._of(fold.test, labelled=True))
        if self.plan.transductive:
            if not n_seen:
                raise PosconError(
                    "transductive: has no effect, pre-training sees no scan that is tested on"
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
        """The size that covers the slices of the whole set. So all folds have the same size."""
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
        shared = self.source is not None or self.plan.transductive  # all folds share it
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
        amount: int,
        draw: int,
        roles: Mapping[str, list[CaseRecord]],
        slices: SliceChoice | None,
    ) -> Job:
        cases = {"labelled": roles["labelled"]}
        if find_method(entry.method).uses_unlabelled:
            hidden = slices is not None and amount < n_slices(roles["labelled"])
            if not roles["unlabelled"] and not hidden:
                what = "case" if slices is None else "slice"
                raise PosconError(
                    f"{self.plan.amounts_key} = {amount}: leaves fold {fold.number} no {what} "
                    f"without labels, but {entry.method} needs some; ask for fewer"
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
            f"fold{fold.number}-draw{draw}-m{amount}" if slices is None else slices.words,
            settings,
            cases,
            pretraining=init_entry.name,
            init=None if before is None else before.name,
            finetuning=entry.name,
            labelled=amount,
            fold=fold.number,
            draw=draw,
            slices=slices,
        )


def _shared(known: Job | None, job: Job) -> Job:
    """A run that is wanted, of which another row may have wanted the same before."""
    if known is None:
        return job
    if job.strategy is None or job.strategy in (known.strategy, *known.also):
        return known
    return replace(known, also=(*known.also, job.strategy))


def _slice_choice(
    strategy: StrategyEntry,
    label: str,
    encoder: Job | None,
    fold: Fold,
    amount: int,
    draw: int,
    seed: int,
    cases: Sequence[CaseRecord],
    latest: Job | None,
) -> SliceChoice:
    """How slices are chosen, with a name for their file that says all that determines them.

    Args:
        strategy: the strategy that chooses.
        label: name in the tables of the strategy whose row it is.
        encoder: the pre-training by whose encoder it chooses, or None.
        fold: the fold, for the name.
        amount: number of slices.
        draw: number of the draw, for the name.
        seed: seed of the draw.
        cases: what is chosen from, in order.
        latest: the fine-tuning of the round before, or None.
    """
    init = None if encoder is None else encoder.name
    determined_by: dict[str, Any] = {
        "poscon_version": __version__,
        "strategy": strategy.name,
        "init": init,
        "slices": amount,
        "seed": seed,
        "cases": [[case.id, case.stored_sha256] for case in cases],
    }
    model, before = None, None
    if (package := plugins.release(plugins.SUGGESTION, strategy.name)) is not None:
        determined_by["package"] = package
    if latest is not None:
        assert latest.slices is not None
        model, before = latest.name, latest.slices.table
        determined_by["model"] = model
    table = f"fold{fold.number}-draw{draw}-n{amount}-{strategy.label}-{_hash(determined_by)}.csv"
    return SliceChoice(label, strategy.name, init, table, model, before)


def _job(
    command: Command,
    label: str,
    settings: dict[str, Any],
    cases: Mapping[str, Sequence[CaseRecord]],
    *,
    pretraining: str,
    finetuning: str | None = None,
    init: str | None = None,
    slices: SliceChoice | None = None,
    **rest: Any,
) -> Job:
    determined_by: dict[str, Any] = {
        "poscon_version": __version__,
        "command": command,
        # device and logger do not determine a run
        "settings": {k: value for k, value in settings.items() if k not in ("device", "logger")},
        "cases": {
            role: [[c.id, c.stored_sha256] for c in members] for role, members in cases.items()
        },
        "init": init,
    }
    if slices is not None:
        determined_by["slices"] = slices.table
    group = plugins.PRETEXT if command == "pretrain" else plugins.FINETUNING
    parts = (group, settings["method"]), (plugins.NETWORKS, settings["network"]["architecture"])
    if packages := [found for part in parts if (found := plugins.release(*part)) is not None]:
        determined_by["packages"] = packages
    methods = "-".join(name for name in (pretraining, finetuning) if name is not None)
    return Job(
        name=f"{command}-{label}-{methods}-{_hash(determined_by)}",
        command=command,
        settings=settings,
        cases={role: tuple(c.id for c in members) for role, members in cases.items()},
        pretraining=pretraining,
        finetuning=finetuning,
        init=init,
        slices=slices,
        **rest,
    )


def _hash(content: Mapping[str, Any]) -> str:
    """Ten digits that differ with the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
