"""Typical: the densest slice of each group of slices that has no label (TypiClust)."""

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

from poscon.seeds import stream
from poscon.suggestion.base import Choice, Pool, Strategy

NEIGHBOURS = 20
MOST_CLUSTERS = 500
SMALL = 5
"""Smaller clusters come last. The numbers so far are those of the paper."""
ROUNDS = 20
"""Rounds of k-means."""
BLOCK_VALUES = 2**23
"""Distances that are in memory at a time."""


def typicality(points: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """How dense points lie: 1 / mean distance to their nearest neighbours (Eq. 4 of the paper).

    Args:
        points: (N, D), each of length 1.
        neighbours: how many neighbours count; all other points where there are fewer.

    Returns:
        (N,). A single point has 0; a point that coincides with its neighbours has infinity.
    """
    n = len(points)
    k = min(neighbours, n - 1)
    if k == 0:
        return np.zeros(n)
    mean = np.empty(n)
    block = max(1, BLOCK_VALUES // n)
    for start in range(0, n, block):
        part = points[start : start + block]
        distance = np.sqrt(np.clip(2 - 2 * (part @ points.T), 0, None))
        distance[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        mean[start : start + block] = np.partition(distance, k - 1, axis=1)[:, :k].mean(axis=1)
    with np.errstate(divide="ignore"):
        return 1 / mean


def clusters_of(points: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The cluster of each point, by k-means that begins as k-means++ does (Arthur & Vassilvitskii).

    Args:
        points: (N, D), each of length 1.
        n: how many clusters, N at most. Some may stay empty.
        seed: draws the first centres.

    Returns:
        (N,) numbers from 0 to n - 1.
    """
    generator = np.random.default_rng(stream(seed, "clusters"))
    centres = [int(generator.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(centres) < n:
        distance = np.minimum(distance, np.clip(2 - 2 * (points @ points[centres[-1]]), 0, None))
        distance[centres] = 0
        total = distance.sum()
        if total == 0:  # all others coincide with a centre
            break
        centres.append(int(generator.choice(len(points), p=distance / total)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that stays empty does no harm
        _, clusters = kmeans2(points, points[centres], iter=ROUNDS, minit="matrix")
    return clusters


class Typical(Strategy):
    """TypiClust: k-means into as many clusters as slices labelled and to be chosen, 500 at most.

    The clusters with the fewest labelled or chosen slices come first, of these the largest. Each
    gives its densest slice. Subjects do not take turns: two clusters may lie in one subject.
    """

    summary = "the densest slice of each cluster of embeddings that has no label (TypiClust)"
    citation = "Hacohen et al., ICML 2022, arXiv 2202.02794"
    needs = "an encoder (--init)"
    needs_embeddings = True

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        points = pool.embeddings
        assert points is not None
        n = min(int(pool.labelled.sum()) + budget, MOST_CLUSTERS, len(points))
        clusters = clusters_of(points, n, stream(seed, "typical"))
        size = np.bincount(clusters, minlength=n)
        done = np.bincount(clusters[pool.labelled], minlength=n)
        small = size < SMALL
        density: dict[int, np.ndarray] = {}
        left = ~pool.labelled
        chosen = []
        for _ in range(budget):
            some = np.flatnonzero(np.bincount(clusters[left], minlength=n))
            cluster = int(some[np.lexsort((-size[some], small[some], done[some]))[0]])
            members = np.flatnonzero(clusters == cluster)
            if cluster not in density:
                density[cluster] = typicality(points[members])
            row = int(members[np.where(left[members], density[cluster], -np.inf).argmax()])
            reason = f"the densest of {size[cluster]} slices that are alike"
            if done[cluster]:
                reason += f", {done[cluster]} of them labelled or chosen before"
            left[row] = False
            done[cluster] += 1
            chosen.append(Choice(row, reason))
        return chosen
