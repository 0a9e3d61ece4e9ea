"""`coverage` and `hybrid` against greedy choices by the definition."""

from dataclasses import replace

import numpy as np
import pytest
from suggestion_examples import example_pool, rows_of, turn

from poscon.suggestion import coverage
from poscon.suggestion.base import Pool
from poscon.suggestion.coverage import Coverage
from poscon.suggestion.hybrid import LEVELS, Hybrid


def shortfalls(pool: Pool, rows: list[int], weights: np.ndarray, levels: bool) -> list[float]:
    """How much better the best choice of all would have been, at each step.

    It may be a little above 0: two slices that are nearest to each other have the same gain.
    """
    assert pool.embeddings is not None
    assert pool.middles is not None
    similarity = (1 + pool.embeddings.astype(float) @ pool.embeddings.T.astype(float)) / 2
    covered = np.flatnonzero(~pool.labelled)
    level = np.minimum((pool.middles * LEVELS).astype(int), LEVELS - 1)
    found = []
    for step, row in enumerate(rows):
        taken = [*np.flatnonzero(pool.labelled), *rows[:step]]
        allowed = turn(pool, rows[:step])
        if levels:
            done = {each: sum(level[t] == level[each] for t in taken) for each in allowed}
            allowed = [each for each in allowed if done[each] == min(done.values())]
        values = {
            each: weights[covered] @ similarity[np.ix_(covered, [*taken, each])].max(axis=1)
            for each in allowed
        }
        found.append(float(max(values.values()) - values[row]))
    return found


@pytest.mark.parametrize("labelled", [0, 8])
@pytest.mark.parametrize("seed", range(3))
def test_coverage_is_the_greedy_choice(labelled: int, seed: int) -> None:
    pool = example_pool(seed, labelled)
    rows = rows_of(Coverage().choose(pool, 16, 0))
    assert max(shortfalls(pool, rows, np.ones(len(pool)), levels=False)) < 1e-5


@pytest.mark.parametrize("model", [False, True])
@pytest.mark.parametrize("labelled", [0, 8])
def test_hybrid_is_the_weighted_greedy_choice_in_levels(labelled: int, model: bool) -> None:
    pool = example_pool(1, labelled)
    weights = pool.uncertainty if model else np.ones(len(pool))
    assert weights is not None
    rows = rows_of(Hybrid().choose(pool if model else replace(pool, uncertainty=None), 16, 0))
    assert max(shortfalls(pool, rows, weights, levels=True)) < 1e-5


def test_what_is_labelled_covers_too() -> None:
    """Of two groups, the one with a label is covered already."""
    generator = np.random.default_rng(0)
    near = np.array([1.0, 0]) + 0.01 * generator.standard_normal((10, 2))
    far = np.array([0, 1.0]) + 0.01 * generator.standard_normal((10, 2))
    points = np.concatenate([near, far])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labelled = np.arange(20) == 3
    pool = Pool(np.arange(20), labelled, None, points.astype(np.float32))
    (row,) = rows_of(Coverage().choose(pool, 1, 0))
    assert row >= 10


def test_of_many_slices_a_sample_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MOST_COVERED", 20)
    pool = example_pool(labelled=5)
    rows = rows_of(Coverage().choose(pool, 7, 0))
    assert rows == rows_of(Coverage().choose(pool, 7, 0))
    assert len(set(rows)) == 7
    assert any(rows != rows_of(Coverage().choose(pool, 7, seed)) for seed in range(1, 6))
