"""Random: every slice with the same chance."""

import numpy as np

from poscon.seeds import stream
from poscon.suggestion.base import Choice, Pool, Strategy


class Random(Strategy):
    """The next rows of a random order. It is what every other strategy must be compared with."""

    summary = "draw from all slices with the same chance"
    citation = "-"
    needs = "nothing"

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        order = np.random.default_rng(stream(seed, "random")).permutation(len(pool))
        return [
            Choice(int(row), "drawn at random") for row in order[~pool.labelled[order]][:budget]
        ]
