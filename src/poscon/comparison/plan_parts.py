"""The parts of a plan: data sets, folds, the methods and strategies that take part."""

import re
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from poscon.settings import Settings

RANDOM = "random"
"""The pre-training method that is a random initialisation. Nothing is pre-trained for it."""
PATIENTS = "patients"
"""The strategy that labels whole subjects, as a comparison of labelled subjects does."""


class PhantomSettings(Settings):
    """Settings of the built-in synthetic scans, see :mod:`poscon.volumes.phantom`."""

    subjects: int = Field(30, ge=4)
    seed: NonNegativeInt = 0
    modality: Literal["mr", "ct"] = "mr"

    @field_validator("modality", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        """``MR`` is read as ``mr``."""
        return value.lower() if isinstance(value, str) else value


class DataSettings(Settings):
    """A data set.

    Attributes:
        folder: folder of the data set; ``--data`` of the command line overrides it.
        phantom: synthetic scans, drawn if no folder is given.
        layout, labels, ignore_label, channel, reverse: the options of ``poscon prepare`` with these
            names.
        prepare: settings of ``poscon prepare``.
    """

    folder: str | None = Field(None, min_length=1)
    phantom: PhantomSettings | None = None
    layout: str | None = None
    labels: str | None = None
    ignore_label: PositiveInt | None = None
    channel: NonNegativeInt | str | None = None
    reverse: str | None = None
    prepare: dict[str, Any] = Field(default_factory=dict)


class FoldFiles(Settings):
    """A fold, given by files that name subjects (see :func:`poscon.store.names.read_names`).

    Attributes:
        test: file of the subjects to test on.
        train: file of the subjects to pre-train on and to draw from; None: all others.
    """

    test: str
    train: str | None = None


class Entry(Settings):
    """A method that takes part, with settings of its own.

    Attributes:
        name: name in the tables.
        method: name of a method, see ``poscon methods``.
        settings: settings of its pre-training or fine-tuning; they override those that all share.
    """

    name: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+=-]{1,60}", name):
            raise ValueError("a name has 1 to 60 letters, digits and characters of . _ + = -")
        return name


class FinetuneEntry(Entry):
    """A fine-tuning that takes part.

    Attributes:
        inits: names of the initialisations that it starts from; None: all of them.
    """

    inits: tuple[str, ...] | None = Field(None, min_length=1)


class StrategyEntry(Settings):
    """A strategy that chooses the labelled slices.

    Attributes:
        name: ``patients``, or name of a strategy, see ``poscon methods``.
        init: name of the pre-training whose encoder it chooses by; None if it needs none.
    """

    name: str
    init: str | None = None

    @property
    def label(self) -> str:
        """Its name in tables: ``spread``, or ``coverage-pcl`` for one with an encoder."""
        return self.name if self.init is None else f"{self.name}-{self.init}"


class Flaws(Settings):
    """Flawed ways of reporting, to show by how much they flatter. The results do not change.

    Attributes:
        select_on_test: also give the Dice of the checkpoint that is best on the test subjects.
        pooled_dice: also give one Dice of the voxels of all test subjects together.
    """

    select_on_test: bool = False
    pooled_dice: bool = False
