"""Spread: as many subjects as possible, at positions that cover the stack evenly."""

from typing import ClassVar

import numpy as np

from poscon.seeds import stream
from poscon.suggestion.base import Choice, Pool, Strategy, Turns

GOLDEN = (5**0.5 - 1) / 2


def even_position(number: int, start: float) -> float:
    """The position that choice ``number`` aims at, in [0, 1).

    It is (start + number * g) mod 1 with the golden ratio g = 0.618. Of all steps, this one leaves
    the most even gaps however many choices are made (the three-gap theorem, Sos 1958). So the
    positions of a small budget are those of a larger one, without its last.
    """
    return (start + number * GOLDEN) % 1.0


class Spread(Strategy):
    """Subjects take turns. Each gives the slice that is nearest to the next position.

    Of the subjects that have their turn, those come first whose scan reaches the position. Of these
    that one is taken whose labelled and chosen slices are the farthest from the position. Where
    this does not tell, a random order does. Slices that are
    labelled already count: the sequence of positions goes on after them. To choose ten and then ten
    more is therefore to choose twenty.
    """

    summary = "as many subjects as possible, positions spread evenly over the stack"
    citation = "-"
    needs = "nothing"
    stream_name: ClassVar[str] = "spread"

    def place(self, share: float) -> float:
        """The position in [0, 1) that has this share of all choices below it."""
        return share

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        generator = np.random.default_rng(stream(seed, self.stream_name))
        turns = Turns(pool)
        subject_rank = generator.permutation(len(turns.counts))
        row_rank = generator.permutation(len(pool))  # frames of a series have the same positions
        start = generator.random()
        chosen = []
        for _ in range(budget):
            target = self.place(even_position(turns.done, start))
            rows = turns.rows()
            ranks = subject_rank[pool.subjects[rows]]
            if pool.middles is None:
                row = int(rows[ranks.argmin()])
                reason = turns.before(row)
            else:
                distance = np.abs(pool.middles - target)
                nearest = np.full(len(turns.counts), np.inf)  # slice labelled or chosen, by subject
                np.minimum.at(nearest, pool.subjects[~turns.left], distance[~turns.left])
                beyond, aim = np.zeros(len(rows)), "the slice nearest to position"
                if pool.edges is not None:
                    aim = "of its slices, that whose share of slices before it is nearest to"
                    low, high = pool.edges[rows].T
                    beyond = np.maximum(beyond, np.maximum(low - target, target - high))
                keys = (
                    row_rank[rows], distance[rows], ranks, -nearest[pool.subjects[rows]], beyond
                )  # fmt: skip
                row = int(rows[np.lexsort(keys)[0]])
                reason = f"{turns.before(row)}; {aim} {target:.2f}"
            turns.take(row)
            chosen.append(Choice(row, reason))
        return chosen
