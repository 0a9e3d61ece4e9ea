"""A small pool for the tests of strategies."""

from dataclasses import replace

import numpy as np

from poscon.suggestion.base import Choice, Pool
from poscon.suggestion.pool import unit

SUBJECTS, EACH = 7, 9


def example_pool(seed: int = 0, labelled: int = 0) -> Pool:
    """Seven subjects with nine slices each.

    Args:
        seed: of the embeddings and uncertainties.
        labelled: number of labelled slices, drawn at random.
    """
    generator = np.random.default_rng(seed)
    n = SUBJECTS * EACH
    done = np.zeros(n, bool)
    done[generator.permutation(n)[:labelled]] = True
    return Pool(
        subjects=np.repeat(np.arange(SUBJECTS), EACH),
        labelled=done,
        middles=np.tile((np.arange(EACH) + 0.5) / EACH, SUBJECTS),
        embeddings=unit(generator.standard_normal((n, 5))),
        uncertainty=generator.random(n),
    )


def rows_of(choices: list[Choice]) -> list[int]:
    return [choice.row for choice in choices]


def after(pool: Pool, rows: list[int]) -> Pool:
    """The pool when rows have been labelled."""
    labelled = pool.labelled.copy()
    labelled[rows] = True
    return replace(pool, labelled=labelled)


def turn(pool: Pool, chosen: list[int]) -> list[int]:
    """The rows that may be chosen next: of the subjects with the fewest labelled or chosen."""
    taken = set(np.flatnonzero(pool.labelled)) | set(chosen)
    left = [row for row in range(len(pool)) if row not in taken]
    count = {row: sum(pool.subjects[t] == pool.subjects[row] for t in taken) for row in left}
    return [row for row in left if count[row] == min(count.values())]
