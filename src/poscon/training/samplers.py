"""Samplers choose the slices of a batch.

A sampler is a function of the run's seed and the step's number. Its cost per slice does not depend
on the number of slices. Work on all slices is done once, or once per epoch.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

SamplerName = Literal["uniform", "stratified", "balanced"]


class Uniform:
    """Takes every slice once per epoch, in an order drawn for that epoch.

    An incomplete batch is left out.

    Args:
        positions: (N,), position of each slice.
        subjects: (N,), number of each slice's subject.
        batch_size: slices per step, at most N.
        seed: seed of the order.
    """

    def __init__(
        self, positions: np.ndarray, subjects: np.ndarray, batch_size: int, seed: int
    ) -> None:
        self.n_slices = len(positions)
        self.batch_size = batch_size
        self.epoch_steps = self.n_slices // batch_size
        self.seed = seed
        self._order = lru_cache(1)(self._draw_order)

    def __call__(self, step: int) -> np.ndarray:
        """The indices of the slices of a step, (batch_size,)."""
        epoch, number = divmod(step, self.epoch_steps)
        first = number * self.batch_size
        return self._order(epoch)[first : first + self.batch_size]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.n_slices)


class Stratified(Uniform):
    """Works like :class:`Uniform`, but the positions of each batch are spread evenly.

    All slices are ordered by position and divided into strata of equal size, as many as a batch
    has slices. A batch has one slice of each stratum. So it does not happen by chance that an
    anchor of a positional method has hardly any positive.
    """

    def __init__(
        self, positions: np.ndarray, subjects: np.ndarray, batch_size: int, seed: int
    ) -> None:
        super().__init__(positions, subjects, batch_size, seed)
        self.positions = positions

    def _draw_order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, epoch])
        shuffled = generator.permutation(self.n_slices)  # decides between equal positions
        kept = shuffled[: self.epoch_steps * self.batch_size]
        by_position = kept[np.argsort(self.positions[kept], kind="stable")]
        strata = generator.permuted(by_position.reshape(self.batch_size, self.epoch_steps), axis=1)
        return strata.T.reshape(-1)


class Balanced(Uniform):
    """Takes every subject equally often, for any number of slices.

    The subjects take turns in an order that is drawn for each round. The slices of each subject
    do the same. An epoch has as many steps as with :class:`Uniform`. In it, a slice of a short
    volume is seen more often than a slice of a long volume. If a subject has more turns in a batch
    than it has slices, the batch has a slice of it twice.
    """

    def __init__(
        self, positions: np.ndarray, subjects: np.ndarray, batch_size: int, seed: int
    ) -> None:
        super().__init__(positions, subjects, batch_size, seed)
        numbers, first = np.unique(np.sort(subjects), return_index=True)
        self.of_subject = np.split(np.argsort(subjects, kind="stable"), first[1:])
        self.n_subjects = len(numbers)
        self._turns = lru_cache(2)(self._draw_turns)  # a batch may lie in two rounds

    def __call__(self, step: int) -> np.ndarray:
        first = step * self.batch_size
        return np.array([self._slice(turn) for turn in range(first, first + self.batch_size)])

    def _slice(self, turn: int) -> int:
        visit, number = divmod(turn, self.n_subjects)
        subject = self._turns(visit)[number]
        slices = self.of_subject[subject]
        cycle, number = divmod(visit, len(slices))
        order = np.random.default_rng([self.seed, 1, subject, cycle]).permutation(len(slices))
        return int(slices[order[number]])

    def _draw_turns(self, visit: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, visit]).permutation(self.n_subjects)


SAMPLERS: dict[SamplerName, type[Uniform]] = {
    "uniform": Uniform,
    "stratified": Stratified,
    "balanced": Balanced,
}
