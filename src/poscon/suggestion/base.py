"""What every strategy is given and gives back, and the rule that subjects take turns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Pool:
    """Slices, or whole subjects, with what is known of each: one row each.

    Attributes:
        subjects: (N,) number of the subject, from 0.
        labelled: (N,) bool. A row that is labelled already is never chosen.
        middles: (N,) where the middle of each slice lies among all slices, from 0 to 1; see
            :class:`poscon.suggestion.pool.Slices`. None: the rows are whole subjects.
        embeddings: (N, D) float32, each of length 1; None: the strategy does not need them.
        uncertainty: (N,), 0 or more; None: the strategy does not need it.
        edges: (N, 2) where both ends of the volume of a slice lie, on the scale of ``middles``;
            None: every volume reaches from 0 to 1.
    """

    subjects: np.ndarray
    labelled: np.ndarray
    middles: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    edges: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.subjects)


class Choice(NamedTuple):
    """One row of a pool that should be labelled.

    Attributes:
        row: the number of the row.
        reason: why it was chosen, in words.
    """

    row: int
    reason: str


class Strategy(ABC):
    """A rule that orders what is not labelled yet: what to label first comes first."""

    summary: ClassVar[str]
    """What it does, in one line, for ``poscon methods``."""
    citation: ClassVar[str]
    needs: ClassVar[str]
    """What it needs, for ``poscon methods``."""
    needs_embeddings: ClassVar[bool] = False
    """Whether it reads ``pool.embeddings``."""
    uncertainty: ClassVar[Literal["unused", "used", "needed"]] = "unused"
    """Whether it reads ``pool.uncertainty``, and whether it works without."""
    needs_positions: ClassVar[bool] = False
    """Whether it chooses by position, so that it cannot choose whole subjects."""

    @abstractmethod
    def choose(self, pool: Pool, budget: int, seed: int) -> Sequence[Choice]:
        """Choose rows that are not labelled.

        Args:
            pool: what there is.
            budget: how many rows to choose; there are as many without labels.
            seed: every random choice follows from it.

        Returns:
            As many choices as the budget says, of different rows, the first to label first.
        """


class Turns:
    """What is left of a pool while choices are made, and which subjects have their turn.

    It is the turn of the subjects with the fewest rows that are labelled or chosen, among the
    subjects that have a row left. So no subject gets a second choice before every subject has one.

    Attributes:
        left: (N,) bool, neither labelled nor chosen.
        counts: number of labelled or chosen rows of each subject.
    """

    def __init__(self, pool: Pool) -> None:
        self.subjects = pool.subjects
        self.left = ~pool.labelled
        self.counts = np.bincount(
            pool.subjects[pool.labelled], minlength=int(pool.subjects.max()) + 1
        )

    @property
    def done(self) -> int:
        """How many rows are labelled or chosen."""
        return int(self.counts.sum())

    def rows(self) -> np.ndarray:
        """The rows that are left of the subjects that have their turn, in rising order."""
        left = np.flatnonzero(self.left)
        counts = self.counts[self.subjects[left]]
        return left[counts == counts.min()]

    def take(self, row: int) -> None:
        """Mark a row as chosen."""
        self.left[row] = False
        self.counts[self.subjects[row]] += 1

    def before(self, row: int) -> str:
        """How often the subject of a row was chosen before, in words."""
        count = int(self.counts[self.subjects[row]])
        return "a new subject" if count == 0 else f"a subject with {count} before it"
