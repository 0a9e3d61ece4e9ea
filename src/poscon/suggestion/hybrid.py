"""Hybrid: coverage, within levels of position, weighted by what a model is uncertain of."""

import numpy as np

from poscon.suggestion.base import Choice, Pool, Strategy, Turns
from poscon.suggestion.coverage import cover

LEVELS = 6
"""Parts of equal length that the stack is divided into."""


class Hybrid(Strategy):
    """Coverage in which the levels of the stack take turns as the subjects do.

    With a model, a slice that it is uncertain of weighs more among those that are to be covered.
    Suggestive annotation (Yang et al., MICCAI 2017) brings the two together in another way: it
    covers by the most uncertain slices only.

    Of the rows that have their turn, those may be chosen that lie in the level with the fewest
    slices labelled or chosen.
    """

    summary = "coverage in levels of position, weighted by uncertainty if there is a model"
    citation = "after Yang et al., MICCAI 2017, arXiv 1706.04737"
    needs = "an encoder (--init); uses a model (--model)"
    needs_embeddings = True
    needs_positions = True
    uncertainty = "used"

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        assert pool.middles is not None
        level = np.minimum((pool.middles * LEVELS).astype(int), LEVELS - 1)

        def narrow(rows: np.ndarray, turns: Turns) -> np.ndarray:
            done = np.bincount(level[~turns.left], minlength=LEVELS)[level[rows]]
            return rows[done == done.min()]

        return cover(pool, budget, seed, weights=pool.uncertainty, narrow=narrow)
