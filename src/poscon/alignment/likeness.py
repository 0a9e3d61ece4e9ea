"""How alike slices of different volumes are: features of few dimensions, and evidence by shift."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh

MOST = 16
"""Dimensions that are kept; more of them tell patients apart, not levels."""
RIDGE = 1e-2
"""Share of the mean variance within a level that is added to every direction."""
ENOUGH = 1e-6
"""Variance of a direction, relative to the largest, below which it is rounding."""


def split(rows: np.ndarray, volumes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows for all slices, volume after volume, as one array a volume.

    Args:
        rows: (N, ...), N slices in all.
        volumes: (slices, ...) of each volume, for their numbers of slices.

    Returns:
        (slices, ...) of each volume.
    """
    return np.split(rows, np.cumsum([len(volume) for volume in volumes])[:-1])


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances of the rows of (N, D) and of (M, D)."""
    return (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T


def compact(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first principal components, with the square root of their standard deviation.

    Every feature is brought to variance 1 first. So a component of large variance counts more,
    but does not drown the others.

    Args:
        features: (slices, D) of each volume.

    Returns:
        (slices, K) float64 of each volume, K at most :data:`MOST`, of mean squared length 1. K is 0
        where all slices are the same.
    """
    x = np.concatenate(features).astype(np.float64)
    spread = x.std(axis=0)
    varies = spread > 1e-9 * max(1.0, float(np.abs(x).max()))
    if not varies.any():
        return split(np.zeros((len(x), 0)), features)
    z = (x[:, varies] - x[:, varies].mean(axis=0)) / spread[varies]
    variances, directions = np.linalg.eigh(z.T @ z / len(z))
    kept = np.argsort(variances)[::-1][:MOST]
    kept = kept[variances[kept] > ENOUGH * variances[kept[0]]]
    components = (z @ directions[:, kept]) / variances[kept] ** 0.25
    return split(_of_length_one(components), features)


def discriminant(
    components: Sequence[np.ndarray],
    coordinates: Sequence[np.ndarray],
    width: float,
    trusted: np.ndarray,
) -> list[np.ndarray]:
    """Project onto the directions that tell levels apart and agree between volumes.

    Fisher's linear discriminant with a continuous level in place of classes: the variance of the
    mean at a level, against the variance around it. Each direction has variance 1 around the mean,
    times the share of its variance that lies between levels.

    Args:
        components: (slices, K) of each volume.
        coordinates: (slices,) of each volume, where its slices lie on the axis, in mm.
        width: standard deviation in mm of the Gaussian with which the mean at a level is taken.
        trusted: (V,) bool, the volumes from which the directions are learned.

    Returns:
        (slices, K) float64 of each volume, of mean squared length 1.
    """
    known = [x for x, good in zip(components, trusted, strict=True) if good]
    placed = [at for at, good in zip(coordinates, trusted, strict=True) if good]
    x, at = np.concatenate(known), np.concatenate(placed)
    means = MeanCurve(known, placed, width).at(at)
    within = np.cov((x - means).T).reshape(x.shape[1], x.shape[1])
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    between = np.cov(means.T).reshape(within.shape)
    ratios, directions = eigh(between, within)
    ratios = np.maximum(ratios, 0)
    projected = np.concatenate(components) @ (directions * np.sqrt(ratios / (1 + ratios)))
    return split(_of_length_one(projected), components)


class MeanCurve:
    """The mean of features along an axis, taken with a Gaussian.

    Args:
        components: (slices, K) of each volume.
        coordinates: (slices,) of each volume, in mm.
        width: standard deviation of the Gaussian, in mm.

    Attributes:
        grid: (N,) coordinates in mm, half a width apart.
        sums: (volumes, N, K), weighted sums over the slices of each volume.
        weights: (volumes, N), their weights.
    """

    def __init__(
        self, components: Sequence[np.ndarray], coordinates: Sequence[np.ndarray], width: float
    ) -> None:
        low = min(at.min() for at in coordinates)
        high = max(at.max() for at in coordinates)
        self.grid = np.arange(low, high + width, width / 2)
        sums, weights = [], []
        for x, at in zip(components, coordinates, strict=True):
            weight = np.exp(-0.5 * ((self.grid[:, None] - at) / width) ** 2)
            sums.append(weight @ x)
            weights.append(weight.sum(axis=1))
        self.sums, self.weights = np.stack(sums), np.stack(weights)

    def at(self, coordinates: np.ndarray) -> np.ndarray:
        """(len(coordinates), K) the mean of all volumes, interpolated."""
        means = self.sums.sum(axis=0) / np.maximum(self.weights.sum(axis=0), 1e-12)[:, None]
        return np.stack([np.interp(coordinates, self.grid, row) for row in means.T], axis=1)


def resample(components: np.ndarray, depths: np.ndarray, step: float) -> np.ndarray:
    """Features at equal steps from the first slice to the last, interpolated.

    Args:
        components: (slices, K).
        depths: (slices,) rising, mm.
        step: mm.

    Returns:
        (N, K), at least one row.
    """
    at = np.arange(depths[0], depths[-1] + step / 2, step)
    columns = [np.interp(at, depths, row) for row in components.T]
    return np.stack(columns, axis=1) if columns else np.zeros((len(at), 0))


def evidence(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much more alike two volumes are where they overlap than elsewhere, by shift.

    The squared distances of all pairs of slices are cut off at their median, so that slices that
    do not match count alike, however different they are. Then every pair has the mean distance
    minus its own. The evidence for a shift is the sum over the pairs that lie upon each other. So a
    long overlap of alike slices counts more than a short one.

    Args:
        first: (N, K), features at equal steps.
        second: (M, K), at the same steps.

    Returns:
        (N + M - 1,): number c is for the shift d = c - (N - 1), where slice i of the first lies on
        slice i + d of the second; and the same with the second volume turned round.
    """
    distances = squared_distances(first, second)
    distances = np.minimum(distances, np.median(distances))
    gains = distances.mean() - distances
    return _by_shift(gains), _by_shift(gains[:, ::-1])


def _by_shift(gains: np.ndarray) -> np.ndarray:
    """(N + M - 1,) sums along the diagonals of (N, M), from the lower left to the upper right."""
    n, m = gains.shape
    padded = np.zeros((n, n + m))
    padded[:, :m] = gains[::-1]
    # Read with rows one shorter than they were written, each row begins one column further right.
    moved = padded.ravel()[: n * (n + m - 1)].reshape(n, n + m - 1)
    return np.asarray(moved.sum(axis=0))


def _of_length_one(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.sqrt((x**2).sum(axis=1).mean())), 1e-12)
