"""Which slices a batch is made of.

A sampler is a function of the run's seed and the step's number, and costs as much per slice
whatever the number of slices: what it knows of all of them is worked out once, or once an epoch.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

SamplerName = Literal["uniform", "stratified", "balanced"]


class Uniform:
    """Every slice once an epoch, in an order drawn for that epoch.

    An incomplete batch is left out.

    Args:
        positions: (N,), of all slices.
        subjects: (N,), the number of each slice's subject.
        batch_size: slices a step, at most N.
        seed: of the order.
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
        """(batch_size,) indices of the slices of a step."""
        epoch, number = divmod(step, self.epoch_steps)
        first = number * self.batch_size
        return self._order(epoch)[first : first + self.batch_size]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.n_slices)


class Stratified(Uniform):
    """As :class:`Uniform`, but the positions of each batch are spread evenly.

    All slices, ordered by position, are cut into as many strata of equal size as a batch has
    slices; a batch has one slice of each. So no anchor of a positional method is left with hardly
    a positive by chance.
    """

    def __init__(
        self, positions: np.ndarray, subjects: np.ndarray, batch_size: int, seed: int
    ) -> None:
        super().__init__(positions, subjects, batch_size, seed)
        self.positions = positions

    def _draw_order(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, epoch])
        shuffled = generator.permutation(self.n_slices)  # equal positions, and what is left out
        kept = shuffled[: self.epoch_steps * self.batch_size]
        by_position = kept[np.argsort(self.positions[kept], kind="stable")]
        strata = generator.permuted(by_position.reshape(self.batch_size, self.epoch_steps), axis=1)
        return strata.T.reshape(-1)


class Balanced(Uniform):
    """Every subject equally often, whatever the number of its slices.

    The subjects take turns in an order drawn anew for each round, and so do the slices of each. An
    epoch has as many steps as with :class:`Uniform`, but a slice of a short volume is seen more
    often in it than one of a long volume. A subject with fewer slices than the batch has turns of
    it is in the batch with the same slice twice.
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
