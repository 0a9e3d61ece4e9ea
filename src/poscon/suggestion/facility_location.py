"""Facility location: how well a few points stand for all, and greedy choices that raise it."""

import numpy as np

BLOCK_VALUES = 2**23
"""Similarities that are in memory at a time."""


class FacilityLocation:
    """The function f(S) = sum_i w_i max_{j in S} s_ij, built up point by point.

    s_ij = (1 + cos(z_i, z_j)) / 2 is the similarity of the points i and j, from 0 to 1. The sum
    runs over the points that are to be covered. f is monotone and submodular, so that the greedy
    choice of k points reaches at least 1 - 1/e of the best (Nemhauser, Wolsey and Fisher,
    Mathematical Programming 1978). In the selection of data it is used by Wei, Iyer and Bilmes
    (ICML 2015).

    The gain f(S + j) - f(S) of every point j is kept up to date. A point that joins S changes the
    gains only through the points that it covers better than S does. To find these is cheap, and
    they become fewer with each point. The matrix of all similarities is never made.

    Args:
        points: (N, D) float32, each of length 1.
        covered: numbers of the points that are to be covered, M of them.
        weights: (M,) weights w of these points, 0 or more; None: all the same. They are divided by
            their sum.

    Attributes:
        gains: (N,) float64, f(S + j) - f(S) of every point j.
        value: f(S), from 0 to 1.
    """

    def __init__(
        self, points: np.ndarray, covered: np.ndarray, weights: np.ndarray | None = None
    ) -> None:
        self.points = points
        self._targets = points[covered]
        weights = np.ones(len(covered)) if weights is None else weights
        total = weights.sum()
        self._weights = (weights / total if total > 0 else weights).astype(np.float32)
        self._nearest = np.full(len(covered), -1.0, np.float32)  # largest cosine, s = 0 at first
        # with an empty S the gains have a closed form
        summed = self._weights @ self._targets
        self.gains = (points @ summed + self._weights.sum()).astype(np.float64) / 2

    @property
    def value(self) -> float:
        return float(self._weights @ (1 + self._nearest)) / 2

    def add(self, rows: np.ndarray) -> None:
        """Let points join S.

        Args:
            rows: numbers of the points.
        """
        before, after = self._nearest, self._nearest.copy()
        block = max(1, BLOCK_VALUES // max(1, len(self._targets)))
        for start in range(0, len(rows), block):
            cosine = self._targets @ self.points[rows[start : start + block]].T
            np.maximum(after, cosine.max(axis=1), out=after)
        better = np.flatnonzero(after > before)
        targets, weights = self._targets[better].T, self._weights[better]
        low, high = before[better], after[better]
        block = max(1, BLOCK_VALUES // max(1, len(better)))
        for start in range(0, len(self.points), block):
            cosine = self.points[start : start + block] @ targets
            np.clip(cosine, low, high, out=cosine)
            cosine -= low
            self.gains[start : start + block] -= (cosine @ weights) / 2
        self._nearest = after
