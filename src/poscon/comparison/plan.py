"""A plan says what is compared, on which data, by which protocol and with which budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from poscon.comparison.plan_parts import (
    PATIENTS,
    RANDOM,
    DataSettings,
    Entry,
    FinetuneEntry,
    Flaws,
    FoldFiles,
    StrategyEntry,
)
from poscon.errors import PosconError
from poscon.metrics import NSD_TOLERANCE_MM
from poscon.networks.settings import NetworkSettings
from poscon.settings import Settings, load_recipe, merged, resolve
from poscon.store.selection import check_multiple
from poscon.suggestion import find_strategy, known_strategies
from poscon.training import finetune_settings, pretrain_settings
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.pretrain_settings import PretrainSettings
from poscon.wrong_settings import nearest

FIRST = "spread"
"""The strategy of the first round, for one that cannot choose without a model."""

Size = PositiveInt | Literal["auto"]


class Plan(Settings):
    """The plan of a comparison, which ``poscon compare`` does.

    Attributes:
        description: text for people.
        setting: ``semi-supervised``: pre-training uses the data of the fine-tuning;
            ``transfer``: it uses ``pretrain_data``.
        data: the data to fine-tune and test on.
        pretrain_data: the data to pre-train on, in a transfer.
        pretraining: the initialisations.
        finetuning: the fine-tunings. Each is done from every initialisation.
        labelled: numbers of labelled subjects; None in a comparison of labelled slices.
        labelled_slices: numbers of labelled slices of the fold's training subjects, chosen at
            once; None in the other comparisons.
        rounds: the same, in rising order; a strategy that uses a model chooses in rounds. The
            model of a round chooses the slices that the next round adds.
        strategies: how these slices are chosen; None: ``spread``.
        folds: number of parts into which the subjects are divided at random, each of which is
            tested on once; or a list of folds, given by files.
        draws: how often labelled subjects are drawn in a fold. A smaller number of them is part
            of a larger one. With labelled slices: how often they are chosen.
        order: ``random``: labelled subjects are drawn; ``listed``: they are the first of the
            fold's ``train`` file. Draws then differ in the training's random choices only.
        seed: seed of folds and pre-training. Draw d and its fine-tuning have seed + d.
        transductive: whether pre-training sees the scans that are tested on (never their labels).
        baseline: the row that all are compared with, ``INIT | FINE-TUNING``, with
            labelled slices ``INIT | FINE-TUNING | STRATEGY``; None: the random
            initialisation, if it takes part, else the first entry, with the first fine-tuning and
            the first strategy.
        metrics: metrics of the tables. The first is also compared with the baseline. That cannot
            be ``rvd``, which has a sign and no better side.
        nsd_tolerance_mm: distance in mm up to which surfaces agree, for the metric ``nsd``.
        recipe: settings to begin with: a recipe by name or file, or its content.
        network, size, precision: settings of both trainings.
        pretrain: settings of every pre-training. A method does not get those that it does not use.
        finetune: settings of every fine-tuning, with the same rule.
        flaws: see :class:`Flaws`.
    """

    description: str = ""
    setting: Literal["semi-supervised", "transfer"] = "semi-supervised"
    data: DataSettings = DataSettings()
    pretrain_data: DataSettings | None = None
    pretraining: tuple[Entry, ...] = Field(min_length=1)
    finetuning: tuple[FinetuneEntry, ...] = Field(
        (FinetuneEntry(name="supervised", method="supervised"),), min_length=1
    )
    labelled: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    labelled_slices: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    rounds: tuple[PositiveInt, ...] | None = None
    strategies: tuple[StrategyEntry, ...] | None = Field(None, min_length=1)
    folds: int | tuple[FoldFiles, ...]
    draws: PositiveInt = 1
    order: Literal["random", "listed"] = "random"
    seed: NonNegativeInt = 0
    transductive: bool = False
    baseline: str | None = None
    metrics: tuple[Literal["dice", "hd95_mm", "assd_mm", "nsd", "rvd"], ...] = Field(
        ("dice", "hd95_mm"), min_length=1
    )
    nsd_tolerance_mm: PositiveFloat = Field(NSD_TOLERANCE_MM, allow_inf_nan=False)
    recipe: str | dict[str, Any] | None = None
    network: NetworkSettings | None = None
    size: Size | None = None
    precision: Literal["auto", "32", "bf16"] | None = None
    pretrain: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)
    flaws: Flaws = Flaws()

    @field_validator("pretraining", "finetuning", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        """A method alone becomes an entry; an entry without a name has that of its method."""
        if not isinstance(value, list | tuple):
            return value
        entries = [{"method": v} if isinstance(v, str) else v for v in value]
        return [
            {"name": v["method"], **v} if isinstance(v, dict) and "method" in v else v
            for v in entries
        ]

    @field_validator("strategies", mode="before")
    @classmethod
    def _strategy_entries(cls, value: Any) -> Any:
        """The name of a strategy alone becomes an entry of that name."""
        if not isinstance(value, list | tuple):
            return value
        return [{"name": v} if isinstance(v, str) else v for v in value]

    @field_validator("precision", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return None if value is None else str(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(getattr(self, key) is not None for key in AMOUNTS) != 1:
            raise ValueError(
                "give either labelled (numbers of subjects) or labelled_slices (numbers of slices) "
                "or rounds (numbers of slices, chosen in rounds)"
            )
        for name in ("pretraining", "finetuning", "labelled", "labelled_slices", "metrics"):
            members = [getattr(m, "name", m) for m in getattr(self, name) or ()]
            if doubled := [m for m in members if members.count(m) > 1]:
                raise ValueError(f"{name} has {doubled[0]} twice; name each once")
        if isinstance(self.folds, int) and self.folds < 2:
            raise ValueError("folds must be 2 or more, or a list of folds")
        if not self.folds:
            raise ValueError("folds: the list is empty")
        if self.metrics[0] == "rvd":
            raise ValueError("metrics: rvd has no better side; name another metric first")
        if (self.setting == "transfer") != (self.pretrain_data is not None):
            raise ValueError(
                "setting transfer goes with pretrain_data, and only transfer does; "
                f"this plan has setting {self.setting}"
            )
        if self.order == "listed" and (
            isinstance(self.folds, int) or any(fold.train is None for fold in self.folds)
        ):
            raise ValueError("order listed needs folds that name a train file each")
        self._check_strategies()
        if self.transductive and all(entry.method == RANDOM for entry in self.pretraining):
            raise ValueError("transductive has no effect: nothing is pre-trained")
        for section in SECTIONS:
            for key, where in _ELSEWHERE.items():
                if key in getattr(self, section):
                    raise ValueError(f"{section}.{key}: {where}")
        for entry in (*self.pretraining, *self.finetuning):
            of_all = ("network", "size", "precision") if entry in self.finetuning else ()
            for key in ("method", "seed", "transductive", "device", "minutes", *of_all):
                if key in entry.settings:
                    raise ValueError(f"{entry.name}: settings.{key}: {_ELSEWHERE[key]}")
        self._check_effect()
        flaws = self.flaws.select_on_test or self.flaws.pooled_dice
        if flaws and "dice" not in self.metrics:
            raise ValueError("flaws are of Dice, which is not among the metrics")
        inits = [init.name for init in self.pretraining]
        for entry in self.finetuning:
            for name in entry.inits or ():
                if name not in inits:
                    raise ValueError(
                        f"finetuning {entry.name}: init {name!r} is not among the pretraining"
                        f"{nearest(name, inits)}"
                    )
        used = {init.name for init, _ in self.combinations}
        used |= {strategy.init for strategy in self.slice_strategies if strategy.init is not None}
        if unused := [name for name in inits if name not in used]:
            raise ValueError(f"pretraining {unused[0]}: no fine-tuning starts from it")
        rows = self.rows
        if self.baseline_row not in rows:
            raise ValueError(
                f"baseline {self.baseline_row!r} is no row{nearest(self.baseline_row, rows)}; "
                f"rows are {', '.join(rows)}"
            )
        return self

    def _check_effect(self) -> None:
        """Refuse a setting of all trainings that none of them uses."""
        inits = [entry for entry in self.pretraining if entry.method != RANDOM]
        if self.pretrain and not inits:
            raise ValueError(
                "pretrain has no effect: nothing is pre-trained; leave it out, or give pretrain={}"
            )
        unused_by = {
            "pretrain": [pretrain_settings.without_effect(entry.method) for entry in inits],
            "finetune": [
                [
                    *finetune_settings.without_effect(entry.method),
                    *([] if inits else ["init_parts"]),
                ]
                for entry in self.finetuning
            ],
        }
        for section, unused in unused_by.items():
            for key in getattr(self, section):
                if all(key in keys for keys in unused):
                    raise ValueError(
                        f"{section}.{key} has no effect: no method of this plan uses it; leave it "
                        "out"
                    )

    def _check_strategies(self) -> None:
        """Refuse a strategy that cannot be used, and keys without effect."""
        if self.labelled is not None:
            if self.strategies is not None:
                raise ValueError("strategies has no effect without labelled_slices or rounds")
            return
        labels = [strategy.label for strategy in self.slice_strategies]
        if doubled := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"strategies has {doubled[0]} twice; name each once")
        if self.order == "listed" and PATIENTS not in labels:
            raise ValueError(f"order listed has no effect: {PATIENTS} is not among the strategies")
        methods = {entry.name: entry.method for entry in self.pretraining}
        known = [PATIENTS, *known_strategies()]
        for name, init in ((s.name, s.init) for s in self.slice_strategies):
            if name not in known:
                raise ValueError(
                    f"strategies: {name!r} is unknown{nearest(name, known)}; "
                    f"known are {', '.join(known)}"
                )
            strategy = None if name == PATIENTS else find_strategy(name)
            if strategy is not None and strategy.uncertainty == "needed" and self.rounds is None:
                raise ValueError(
                    f"strategies: {name} needs a fine-tuned model, which a comparison has only in "
                    "rounds; give rounds in place of labelled_slices, or choose another strategy"
                )
            needs_encoder = strategy is not None and strategy.needs_embeddings
            if needs_encoder and init is None:
                raise ValueError(
                    f"strategies: {name} needs an encoder; write {{name: {name}, init: INIT}} with "
                    "the name of a pretraining"
                )
            if init is None:
                continue
            if not needs_encoder:
                raise ValueError(f"strategies: init of {name} has no effect, it uses no encoder")
            if init not in methods:
                raise ValueError(
                    f"strategies: init {init!r} of {name} is not among the pretraining"
                    f"{nearest(init, list(methods))}"
                )
            if methods[init] == RANDOM:
                raise ValueError(
                    f"strategies: init {init} of {name} is a random initialisation; choose one "
                    "that is pre-trained"
                )
        self._check_rounds()

    def _check_rounds(self) -> None:
        """Refuse numbers that cannot be those of rounds, and rounds without effect."""
        if self.rounds is None:
            return
        if len(self.rounds) < 2 or any(a >= b for a, b in pairwise(self.rounds)):
            raise ValueError(
                "rounds: give two or more rising numbers of slices, such as [10, 20, 40]"
            )
        if not any(self.in_rounds(strategy) for strategy in self.slice_strategies):
            using = [
                name for name in known_strategies() if find_strategy(name).uncertainty != "unused"
            ]
            raise ValueError(
                f"rounds has no effect: no strategy uses a model, as {' and '.join(using)} do; "
                "give labelled_slices in place of rounds"
            )

    def in_rounds(self, strategy: StrategyEntry) -> bool:
        """Whether a strategy chooses in rounds, by the model of the round before."""
        if self.rounds is None or strategy.name == PATIENTS:
            return False
        return find_strategy(strategy.name).uncertainty != "unused"

    def chooser(self, strategy: StrategyEntry, amount: int) -> StrategyEntry:
        """What chooses the slices of a strategy, so many of them.

        It is the strategy itself, but in the first round of one that needs a model ``FIRST``.
        """
        if not self.in_rounds(strategy) or amount != self.amounts[0]:
            return strategy
        needs_model = find_strategy(strategy.name).uncertainty == "needed"
        return StrategyEntry(name=FIRST) if needs_model else strategy

    @property
    def amounts_key(self) -> str:
        """The key that gives the amounts: ``labelled``, ``labelled_slices`` or ``rounds``."""
        return next(key for key in AMOUNTS if getattr(self, key) is not None)

    @property
    def amounts(self) -> tuple[int, ...]:
        """The numbers of labelled subjects, or those of labelled slices."""
        return self.labelled or self.labelled_slices or self.rounds or ()

    @property
    def unit(self) -> str:
        """What the amounts are numbers of: ``subjects`` or ``slices``."""
        return "slices" if self.labelled is None else "subjects"

    @property
    def slice_strategies(self) -> tuple[StrategyEntry, ...]:
        """The strategies that choose the labelled slices; none where whole subjects are drawn."""
        if self.labelled is not None:
            return ()
        return self.strategies or (StrategyEntry(name="spread"),)

    @property
    def rows(self) -> list[str]:
        """The name of the row of every combination and strategy, in order."""
        labels = [strategy.label for strategy in self.slice_strategies]
        return [
            row_name(init.name, entry.name, label)
            for init, entry in self.combinations
            for label in labels or (None,)
        ]

    @property
    def combinations(self) -> list[tuple[Entry, FinetuneEntry]]:
        """The initialisations and fine-tunings that go together, in order."""
        return [
            (init, entry)
            for init in self.pretraining
            for entry in self.finetuning
            if entry.inits is None or init.name in entry.inits
        ]

    @property
    def baseline_row(self) -> str:
        """The row that all others are compared with."""
        if self.baseline is not None:
            return self.baseline
        init = next((p for p in self.pretraining if p.method == RANDOM), self.pretraining[0])
        strategy = next((s.label for s in self.slice_strategies), None)
        return row_name(init.name, self.finetuning[0].name, strategy)

    def pretrain_settings(self, entry: Entry, size: Size) -> PretrainSettings:
        """The settings of a pre-training, resolved.

        Args:
            entry: entry of the initialisation.
            size: extent of what the network sees, in pixels, if neither plan nor recipe says it.

        Raises:
            PosconError: a setting is unknown or has no effect.
        """
        shared = self._shared("pretrain", entry.method, size)
        shared = {
            k: v
            for k, v in shared.items()
            if k not in pretrain_settings.without_effect(entry.method)
        }
        return _resolved(PretrainSettings, "pretrain", entry, shared, self.seed)

    def finetune_settings(
        self, entry: Entry, init: Entry, draw: int, size: Size
    ) -> FinetuneSettings:
        """The settings of a fine-tuning from one of the initialisations, resolved.

        Raises:
            PosconError: a setting is wrong or has no effect.
        """
        shared = self._shared("finetune", entry.method, size)
        # the initialisation determines the network, also a random one
        network = self.pretrain_settings(init, size).network.model_dump()
        if self.network is None and merged(network, shared.get("network") or {}) != network:
            raise PosconError(
                "finetune.network of the recipe: has no effect, the network is that of the start; "
                "give the plan's own network, which both trainings have"
            )
        shared["network"] = network
        if init.method == RANDOM and "init_parts" in entry.settings:
            raise PosconError(
                f"finetuning {entry.name}: init_parts has no effect from {init.name}, "
                "which is random; say with inits which ones it is for"
            )
        ineffective = [*finetune_settings.without_effect(entry.method)]
        ineffective += ["init_parts"] if init.method == RANDOM else []
        shared = {k: v for k, v in shared.items() if k not in ineffective}
        return _resolved(FinetuneSettings, "finetune", entry, shared, self.seed + draw)

    def _recipe(self) -> dict[str, Any]:
        return {} if self.recipe is None else load_recipe(self.recipe)

    def complete(self) -> Self:
        """The same plan with the content of its recipe in it.

        Raises:
            PosconError: the recipe has nothing for the trainings, or it has a key that belongs in
                the plan.
        """
        if self.recipe is None:
            return self
        content, named = self._recipe(), f"recipe {self.recipe}"
        if not any(content.get(section) for section in SECTIONS):
            raise PosconError(f"{named}: has neither pretrain nor finetune, so it has no effect")
        for section in SECTIONS:
            for key in ("seed", "device", "transductive", "minutes"):
                if key in (content.get(section) or {}):
                    raise PosconError(f"{named}: {section}.{key}: {_ELSEWHERE[key]}")
        prepared = dict(content.pop("prepare", None) or {})

        def with_recipe(data: DataSettings) -> DataSettings:
            return data.model_copy(update={"prepare": merged(prepared, data.prepare)})

        other = self.pretrain_data
        return self.model_copy(
            update={
                "recipe": content,
                "data": with_recipe(self.data),
                "pretrain_data": None if other is None else with_recipe(other),
            }
        )

    def _shared(self, section: str, method: str, size: Size) -> dict[str, Any]:
        """The settings of every training of a kind: the recipe's, overridden by the plan's."""
        recipe = dict(self._recipe().get(section) or {})
        if recipe.pop("method", None) != method:
            recipe.pop("loss", None)  # it belongs to the recipe's method
        shared = merged({"size": size, **recipe}, getattr(self, section))
        if self.network is not None and section == "pretrain":
            shared["network"] = self.network.model_dump()
        for key in ("size", "precision"):
            if getattr(self, key) is not None:
                shared[key] = getattr(self, key)
        if shared["size"] == "auto":  # by the whole set, not by the cases of a run
            shared["size"] = size
        return shared


SECTIONS = ("pretrain", "finetune")
AMOUNTS = ("labelled", "labelled_slices", "rounds")
"""The keys that say how much is labelled. A plan has one of them."""
_ELSEWHERE = {
    "method": "the methods are those of pretraining and finetuning",
    "seed": "give the plan's own seed",
    "loss": "belongs to one method: {name: NAME, method: METHOD, settings: {loss: {...}}}",
    "network": "give the plan's own network, which both trainings have",
    "size": "give the plan's own size, which both trainings have",
    "precision": "give the plan's own precision, which both trainings have",
    "transductive": "give the plan's own transductive",
    "device": "is an option of the command line",
    "minutes": "give iterations, because runs that share a machine slow each other down",
}


def row_name(pretraining: str, finetuning: str, strategy: str | None = None) -> str:
    """The name of a combination in tables, with the strategy if slices are labelled."""
    return " | ".join([pretraining, finetuning, *([] if strategy is None else [strategy])])


def row_headings(row: str) -> list[str]:
    """The headings of the columns that the parts of a row's name are put into."""
    return ["init", "fine-tuning", "strategy"][: len(row.split(" | "))]


def _resolved(model: Any, section: str, entry: Entry, shared: dict[str, Any], seed: int) -> Any:
    told = merged(shared, entry.settings)
    with naming(section, entry):
        chosen = resolve(model, section, {section: told}, method=entry.method, seed=seed)
        if chosen.size != "auto":
            check_multiple(chosen.size, chosen.network.stride)
        return chosen


@contextmanager
def naming(section: str, entry: Entry) -> Iterator[None]:
    """Put the training and the plan's entry before the text of a refusal."""
    try:
        yield
    except PosconError as error:
        raise PosconError(f"{section}, {entry.name}: {error}") from error
