"""``poscon compare --dry-run``: every run of a plan, and where each of its settings comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from poscon.comparison.data import plan_with_data
from poscon.comparison.plan import Plan
from poscon.comparison.plan_parts import RANDOM, Entry, StrategyEntry
from poscon.comparison.work import check_machine
from poscon.settings import GivenSettings, given_keys, leaves, load_recipe
from poscon.training import finetune_settings, pretrain_settings

Origin = Literal["default", "recipe", "plan", "entry", "--set", "--device"]
"""A value comes from poscon's defaults, from the plan's recipe, from the plan itself, from the
method's entry in the plan, or from the command line."""


@dataclass(frozen=True)
class Resolved:
    """A setting with its value and its origin."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class PlannedRun:
    """One training of a plan.

    Attributes:
        command: ``pretrain`` or ``finetune``.
        pretraining: name of the initialisation's entry.
        finetuning: name of the fine-tuning's entry; None for a pre-training.
        fold: number of the fold; None for a pre-training that all folds share.
        labelled: number of labelled subjects, or of labelled slices if there is a strategy; None
            for a pre-training.
        strategy: name in the tables of the strategy that chooses the labelled slices; None for a
            pre-training, and where whole subjects are labelled.
        also: names of further strategies whose rows have this very run.
        draw: number of the draw; None for a pre-training.
        round: number of the round, from 1; None where no model chooses slices in rounds.
        settings: every setting by its key, with dots.
    """

    command: Literal["pretrain", "finetune"]
    pretraining: str
    finetuning: str | None
    fold: int | None
    labelled: int | None
    strategy: str | None
    also: tuple[str, ...]
    draw: int | None
    round: int | None
    settings: dict[str, Resolved]

    @property
    def name(self) -> str:
        """``pretrain pcl, fold 0``."""
        parts = [f"{self.command} {self.pretraining}"]
        if self.finetuning is not None:
            parts[0] += f" | {self.finetuning}"
        parts.append("all folds" if self.fold is None else f"fold {self.fold}")
        if self.labelled is not None:
            amount = f"{self.labelled} labelled"
            if self.strategy is not None:
                amount += f" slices by {' and '.join((self.strategy, *self.also))}"
            parts += [amount, f"draw {self.draw}"]
        if self.round is not None:
            parts.append(f"round {self.round}")
        return ", ".join(parts)

    def as_record(self) -> dict[str, Any]:
        """The run as JSON can hold it."""
        return asdict(self)


def planned_runs(
    plan: str,
    *,
    data: Path | str | None = None,
    pretrain_data: Path | str | None = None,
    settings: GivenSettings = (),
    processes: int | None = None,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
) -> list[PlannedRun]:
    """List every run that :func:`poscon.compare` would do with the same arguments.

    Nothing is written.

    The scans are not read. A ``size`` of ``auto`` therefore stays so, and numbers of labelled
    subjects or slices are not compared with what the folds have.

    Raises:
        PosconError: the plan or an argument cannot be used.
    """
    read = plan_with_data(plan, settings, data, pretrain_data)
    check_machine(engine, address, processes, device)
    origins = _Origins(read, settings, device)
    folds = range(read.folds if isinstance(read.folds, int) else len(read.folds))
    runs: dict[str, PlannedRun] = {}
    for fold in folds:
        for draw in range(read.draws):
            for amount in read.amounts:
                for strategy in read.slice_strategies or [None]:
                    for run in _runs_of(read, origins, fold, draw, amount, strategy):
                        by = None if strategy is None else read.chooser(strategy, amount).label
                        key = replace(run, strategy=run.strategy and by, round=None).name
                        runs[key] = _shared(runs.get(key), run)
    return list(runs.values())


def _shared(known: PlannedRun | None, run: PlannedRun) -> PlannedRun:
    """A run that is wanted, of which another row may have wanted the same before."""
    if known is None:
        return run
    if run.strategy is None or run.strategy in (known.strategy, *known.also):
        return known
    return replace(known, also=(*known.also, run.strategy), round=known.round or run.round)


def _runs_of(
    plan: Plan,
    origins: "_Origins",
    fold: int,
    draw: int,
    amount: int,
    strategy: StrategyEntry | None,
) -> Iterator[PlannedRun]:
    """Yield the fine-tunings with one draw of labels, after the pre-trainings that they need."""
    if strategy is not None and strategy.init is not None:
        encoder = next(entry for entry in plan.pretraining if entry.name == strategy.init)
        yield _pretraining(plan, origins, fold, encoder)
    label = None if strategy is None else strategy.label
    in_rounds = strategy is not None and plan.in_rounds(strategy)
    number = plan.amounts.index(amount) + 1 if in_rounds else None
    for init, entry in plan.combinations:
        if init.method != RANDOM:
            yield _pretraining(plan, origins, fold, init)
        told = plan.finetune_settings(entry, init, draw, "auto").model_dump(mode="json")
        settings = origins.of("finetune", told, entry, init)
        yield PlannedRun(
            "finetune", init.name, entry.name, fold, amount, label, (), draw, number, settings
        )


def _pretraining(plan: Plan, origins: "_Origins", fold: int, init: Entry) -> PlannedRun:
    shared = plan.pretrain_data is not None or plan.transductive
    told = plan.pretrain_settings(init, "auto").model_dump(mode="json")
    settings = origins.of("pretrain", told, init)
    where = None if shared else fold
    return PlannedRun("pretrain", init.name, None, where, None, None, (), None, None, settings)


class _Origins:
    """Finds out where the settings of a plan's trainings come from."""

    def __init__(self, plan: Plan, settings: GivenSettings, device: str | None) -> None:
        self.plan, self.device = plan, device
        self.given = given_keys(settings)
        self.recipe = {} if plan.recipe is None else load_recipe(plan.recipe)

    def of(
        self, section: str, told: Mapping[str, Any], entry: Entry, init: Entry | None = None
    ) -> dict[str, Resolved]:
        """Each setting of a training with its value and origin.

        Args:
            section: ``pretrain`` or ``finetune``.
            told: the settings, resolved.
            entry: the training's entry in the plan.
            init: the initialisation's entry, for a fine-tuning. The fine-tuning has its network.
        """
        training = pretrain_settings if init is None else finetune_settings
        unused = [*training.without_effect(entry.method)]
        if init is not None and init.method == RANDOM:
            unused.append("init_parts")
        resolved = {}
        for key, value in leaves(told):
            if key.partition(".")[0] in unused:
                resolved[key] = Resolved(value, "default")
            elif key == "device" and self.device is not None:
                resolved[key] = Resolved(self.device, "--device")
            elif init is not None and key.partition(".")[0] == "network":
                resolved[key] = Resolved(value, self._origin("pretrain", key, init))
            else:
                resolved[key] = Resolved(value, self._origin(section, key, entry))
        return resolved

    def _origin(self, section: str, key: str, entry: Entry) -> Origin:
        plan = self.plan
        entries = "pretraining" if section == "pretrain" else "finetuning"
        if key == "method" or _has(entry.settings, key):
            return "--set" if self._set(entries) else "entry"
        if _has(getattr(plan, section), key):
            return "--set" if self._set(f"{section}.{key}") else "plan"
        top = key.partition(".")[0]
        of_both = {"network", "size", "precision", "seed"}
        if top in of_both and _has(plan.model_dump(exclude_unset=True), key):
            return "--set" if self._set(key) else "plan"
        recipe = self.recipe.get(section) or {}
        # the loss of a recipe belongs to the recipe's method
        if _has(recipe, key) and (top != "loss" or recipe.get("method") == entry.method):
            return "--set" if self._set(f"recipe.{section}.{key}") else "recipe"
        return "default"

    def _set(self, key: str) -> bool:
        """Whether ``--set`` gives this key, a group that it is in, or a part of it."""
        return any(
            f"{key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{key}.")
            for given in self.given
        )


def _has(settings: Any, key: str) -> bool:
    """Whether nested settings hold a key with dots."""
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return False
        settings = settings[part]
    return settings is not None


def dry_run_tables(runs: list[PlannedRun]) -> list[object]:
    """The tables that ``--dry-run`` shows. Runs with equal settings share a table."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(f"{run.command} {run.settings}", []).append(run)
    shown: list[object] = []
    for members in groups.values():
        shown += [Text(run.name, style="bold", no_wrap=True) for run in members]
        table = Table("setting", "value", "from")
        for key, setting in members[0].settings.items():
            table.add_row(key, escape(str(setting.value)), setting.origin)
        shown.append(table)
    return [*shown, f"{len(runs)} runs; nothing was done"]
