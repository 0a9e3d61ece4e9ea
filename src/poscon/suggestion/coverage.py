"""Coverage: slices that together are like all others, to the encoder (facility location)."""

from collections.abc import Callable

import numpy as np

from poscon.seeds import stream
from poscon.suggestion.base import Choice, Pool, Strategy, Turns
from poscon.suggestion.facility_location import FacilityLocation

MOST_COVERED = 10_000
"""Of more slices, so many are drawn at random to be covered. All may be chosen."""


def cover(
    pool: Pool,
    budget: int,
    seed: int,
    *,
    weights: np.ndarray | None = None,
    narrow: Callable[[np.ndarray, Turns], np.ndarray] = lambda rows, turns: rows,
) -> list[Choice]:
    """Greedy choices by facility location; what is labelled already covers, too.

    Subjects take turns: each choice is the best of the subjects with the fewest slices labelled or
    chosen.

    Args:
        pool: with embeddings.
        budget: number of choices.
        seed: draws the slices that are to be covered, where there are many.
        weights: (N,) how much each slice counts that is to be covered; None: all the same.
        narrow: which of the rows that have their turn may be chosen, at least one of them.
    """
    assert pool.embeddings is not None
    covered = np.flatnonzero(~pool.labelled)
    if len(covered) > MOST_COVERED:
        generator = np.random.default_rng(stream(seed, "covered"))
        covered = np.sort(generator.choice(covered, MOST_COVERED, replace=False))
    location = FacilityLocation(
        pool.embeddings, covered, None if weights is None else weights[covered]
    )
    location.add(np.flatnonzero(pool.labelled))
    turns = Turns(pool)
    chosen = []
    for _ in range(budget):
        rows = narrow(turns.rows(), turns)
        row = int(rows[location.gains[rows].argmax()])
        before = location.value
        location.add(np.array([row]))
        reason = (
            f"{turns.before(row)}; the mean similarity of the slices without labels to the nearest "
            f"one rises from {before:.4f} to {location.value:.4f}"
        )
        turns.take(row)
        chosen.append(Choice(row, reason))
    return chosen


class Coverage(Strategy):
    """Facility location on the embeddings of an encoder, given what is labelled already."""

    summary = "cover the encoder's embeddings: every slice has a chosen one like it"
    citation = "Wei, Iyer & Bilmes, ICML 2015"
    needs = "an encoder (--init)"
    needs_embeddings = True

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        return cover(pool, budget, seed)
