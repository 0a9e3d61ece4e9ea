"""Offset and scale of each volume in mm, against the mean of all others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poscon.alignment.likeness import MeanCurve, squared_distances

SCALES = np.exp(np.arange(-4, 5) * 0.04)
"""Relative to the scale that a volume has, in one round."""
SPREAD = 0.07
"""Standard deviation of the logarithm of the scale from patient to patient, as a prior."""
REACH = 4.0
"""Farthest move in one round, in widths of the mean."""
LEAST = 0.5
"""Weight of other volumes, in slices, below which the mean is not known at a level."""
ROUNDS = 10
ORDERS = 20
"""Random orders of the slices of a volume, whose best fit its own has to beat."""
TINY = 1e-12


@dataclass(frozen=True)
class Fit:
    """How volumes lie on the axis.

    Attributes:
        offsets: (V,) coordinate of the first slice, mm.
        scales: (V,) mm of the axis for each mm of the volume; their geometric mean is 1.
        evidence: (V,) how much more alike its slices are to the mean where they lie than
            elsewhere, in mean absolute differences; 0 or less: not at all.
        null: (V,) the largest such evidence of the same slices in random orders.
    """

    offsets: np.ndarray
    scales: np.ndarray
    evidence: np.ndarray
    null: np.ndarray


def refine(
    components: Sequence[np.ndarray],
    depths: Sequence[np.ndarray],
    offsets: np.ndarray,
    width: float,
    subjects: Sequence[str],
    generator: np.random.Generator,
) -> Fit:
    """Fit each volume to the mean of all other subjects, round after round.

    Args:
        components: (slices, K) of each volume.
        depths: (slices,) of each volume, from 0, rising, mm.
        offsets: (V,) where to begin, mm.
        width: standard deviation in mm of the Gaussian with which the mean is taken.
        subjects: (V,) the subject of each volume.
        generator: draws the random orders.
    """
    others = np.array([[a != b for b in subjects] for a in subjects])
    n = len(components)
    offsets, scales = offsets.astype(np.float64), np.ones(n)
    for _ in range(ROUNDS):
        before = offsets, scales
        curve = MeanCurve(components, coordinates(depths, *before), width)
        fits = [
            _best(
                _gains(components[i], curve, others[i]),
                curve.grid,
                depths[i],
                before[0][i],
                before[1][i],
                width,
            )
            for i in range(n)
        ]
        offsets, scales, _ = (np.array(column) for column in zip(*fits, strict=True))
        unit = np.exp(np.log(scales).mean())  # the axis as a whole has no scale of its own
        offsets, scales = offsets / unit, scales / unit
        if np.abs(offsets - before[0]).max() < width / 8:
            break
    curve = MeanCurve(components, coordinates(depths, offsets, scales), width)
    found, null = np.zeros(n), np.zeros(n)  # by one curve, so that they can be compared
    for i in range(n):
        gains = _gains(components[i], curve, others[i])
        found[i] = _best(gains, curve.grid, depths[i], offsets[i], scales[i], width)[2]
        for _ in range(ORDERS):
            shuffled = gains[generator.permutation(len(gains))]
            fit = _best(shuffled, curve.grid, depths[i], offsets[i], scales[i], width)
            null[i] = max(null[i], fit[2])
    return Fit(offsets, scales, found, null)


def coordinates(
    depths: Sequence[np.ndarray], offsets: np.ndarray, scales: np.ndarray
) -> list[np.ndarray]:
    """(slices,) of each volume: offset + scale * depth, mm."""
    return [
        offset + scale * depth for depth, offset, scale in zip(depths, offsets, scales, strict=True)
    ]


def _gains(components: np.ndarray, curve: MeanCurve, others: np.ndarray) -> np.ndarray:
    """(slices, N): by how much a slice is more alike to the mean of the others than on average.

    As in :func:`poscon.alignment.likeness.evidence` distances are cut off at their median. The
    mean of their sizes is 1. Where no other volume lies, nothing is known and the gain is NaN.
    """
    weights = others @ curve.weights
    known = weights >= LEAST
    gains = np.full((len(components), len(curve.grid)), np.nan)
    if not known.any():
        return gains
    sums = np.einsum("v,vnk->nk", others, curve.sums[:, known])
    means = sums / weights[known, None]
    distances = squared_distances(components, means)
    distances = np.minimum(distances, np.median(distances))
    found = distances.mean() - distances
    size = np.abs(found).mean()
    gains[:, known] = found / size if size > TINY else 0.0
    return gains


def _best(
    gains: np.ndarray,
    grid: np.ndarray,
    depths: np.ndarray,
    offset: float,
    scale: float,
    width: float,
) -> tuple[float, float, float]:
    """Offset, scale and evidence of the best fit near one; the prior of the scale is added."""
    middle = depths.mean()
    scales = scale * SCALES
    step = float(grid[1] - grid[0])
    moves = np.arange(-REACH * width, REACH * width + step / 2, step / 2)
    starts = offset + scale * middle + moves  # of the middle of the volume
    at = starts[None, :, None] + (scales[:, None] * (depths - middle))[:, None, :]
    nearest = np.rint((at - grid[0]) / step).astype(np.int64)
    inside = (nearest >= 0) & (nearest < len(grid))
    values = gains[np.arange(len(depths)), np.clip(nearest, 0, len(grid) - 1)]
    known = inside & ~np.isnan(values)
    values = np.where(known, values, 0)
    # A slice where nothing is known counts as the others of the volume do at its present place. If
    # it counted 0, volumes at the ends of the axis would be drawn towards its middle.
    here = len(SCALES) // 2, len(moves) // 2
    usual = values[here].sum() / max(1, known[here].sum())
    totals = values.sum(axis=2) + max(usual, 0) * (~known).sum(axis=2)
    judged = totals - 0.5 * (np.log(scales) / SPREAD)[:, None] ** 2
    best = judged >= judged.max() - 1e-9
    # of equally good ones that which changes least
    change = np.abs(np.log(SCALES))[:, None] + np.abs(moves) / (REACH * width)
    s, m = np.unravel_index(np.where(best, change, np.inf).argmin(), best.shape)
    return float(starts[m] - scales[s] * middle), float(scales[s]), float(totals[s, m])
