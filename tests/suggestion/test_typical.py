import numpy as np
import pytest
from suggestion_examples import rows_of

from poscon.suggestion import typical as module
from poscon.suggestion.base import Pool
from poscon.suggestion.pool import unit
from poscon.suggestion.typical import NEIGHBOURS, Typical, clusters_of, typicality


def slow_typicality(points: np.ndarray, neighbours: int) -> np.ndarray:
    found = []
    for i, point in enumerate(points.astype(float)):
        others = np.delete(points.astype(float), i, axis=0)
        distances = np.sort(np.linalg.norm(others - point, axis=1))
        found.append(1 / distances[:neighbours].mean())
    return np.array(found)


def blobs(seed: int = 0, sizes: tuple[int, ...] = (60, 40, 30, 50)) -> tuple[Pool, np.ndarray]:
    """Groups that are far apart, and the group of each row."""
    generator = np.random.default_rng(seed)
    centres = np.eye(8)[: len(sizes)]
    group = np.repeat(np.arange(len(sizes)), sizes)
    points = centres[group] + 0.1 * generator.standard_normal((len(group), 8))
    n = len(group)
    return Pool(np.arange(n) // 3, np.zeros(n, bool), None, unit(points)), group


@pytest.mark.parametrize("block", [2**23, 100])
@pytest.mark.parametrize("neighbours", [1, 5, 100])
def test_typicality_is_that_of_the_definition(
    neighbours: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    points = unit(np.random.default_rng(1).standard_normal((30, 4)))
    found = typicality(points, neighbours)
    np.testing.assert_allclose(found, slow_typicality(points, neighbours), rtol=1e-4)


def test_a_single_point_and_equal_points() -> None:
    assert typicality(np.ones((1, 1), np.float32)).tolist() == [0]
    assert np.isinf(typicality(np.ones((3, 1), np.float32))).all()
    assert set(clusters_of(np.ones((6, 1), np.float32), 4, 0)) == {0}


def test_the_densest_of_each_group_is_chosen_the_largest_group_first() -> None:
    pool, group = blobs()
    assert pool.embeddings is not None
    rows = rows_of(Typical().choose(pool, 4, 0))
    assert group[rows].tolist() == [0, 3, 1, 2]
    for row in rows:
        members = np.flatnonzero(group == group[row])
        density = slow_typicality(pool.embeddings[members], NEIGHBOURS)
        assert row == members[density.argmax()]


def test_groups_with_a_label_come_last() -> None:
    pool, group = blobs()
    labelled = np.zeros(len(pool), bool)
    labelled[np.flatnonzero(group == 0)[4]] = True
    rows = rows_of(Typical().choose(Pool(pool.subjects, labelled, None, pool.embeddings), 3, 0))
    assert sorted(group[rows]) == [1, 2, 3]


def test_small_clusters_come_after_large_ones() -> None:
    pool, group = blobs(sizes=(30, 3, 20))
    rows = rows_of(Typical().choose(pool, 3, 0))
    assert group[rows].tolist() == [0, 2, 1]


def test_more_than_the_most_clusters_go_round_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLUSTERS", 4)
    pool, group = blobs()
    rows = rows_of(Typical().choose(pool, 8, 0))
    assert np.bincount(group[rows]).tolist() == [2, 2, 2, 2]
    assert len(set(rows)) == 8
