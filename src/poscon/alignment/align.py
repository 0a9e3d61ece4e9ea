"""One coordinate for the slices of all volumes, from their images alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poscon.alignment.directions import find_directions
from poscon.alignment.likeness import compact, discriminant, resample
from poscon.alignment.pairs import choose_partners, compare, turn
from poscon.alignment.placement import improve, place
from poscon.alignment.refinement import coordinates, refine

ROUNDS = 3
"""Rounds in which the directions that tell levels apart are learned and all are placed again."""
CLEAR = 0.15
"""Clearness below which a volume is left as it is."""
TRUSTED = 0.5
"""Share of the largest clearness from which a volume takes part in learning the directions. In the
first round it is the clearer half of the volumes."""
WIDTH = 2.0
"""Width of the mean at a level, in median distances between slices ..."""
LONG = 0.03
"""... but at least this share of the median length of a volume."""


@dataclass(frozen=True)
class Alignment:
    """Where volumes lie on one axis.

    Attributes:
        ends: (V, 2) coordinates in mm of the first and the last slice; those of a volume that runs
            the other way fall. The median of all slices lies at 0.
        scales: (V,) mm of the axis for each mm of the volume, above 0.
        directions: (V,) 1, or -1 where the slices run against those of the majority.
        clearness: (V,) how clear the direction is, from 0 to 1, see
            :func:`poscon.alignment.directions.find_directions`.
        determined: (V,) whether the slices say where the volume lies: they fit better than in any
            of 20 random orders. A volume of which this is False is not placed by its images.
    """

    ends: np.ndarray
    scales: np.ndarray
    directions: np.ndarray
    clearness: np.ndarray
    determined: np.ndarray


def align(
    features: Sequence[np.ndarray],
    depths: Sequence[np.ndarray],
    subjects: Sequence[str],
    files: Sequence[str],
    seed: int = 0,
) -> Alignment:
    """Place volumes on one axis, so that slices of the same coordinate are alike.

    1. The features are brought to few dimensions (:func:`poscon.alignment.likeness.compact`).
    2. All pairs of volumes, or random ones if there are many, are shifted against each other, and
       with one of them turned round. That gives the directions.
    3. The volumes are placed where the sum of the evidence of all pairs is largest.
    4. The directions in the space of features that tell levels apart are learned from this, and 3
       is done again, three times.
    5. Offset and scale of each volume are fitted to the mean of the others.

    Args:
        features: (slices, D) of each volume, in the order of its slices.
        depths: (slices,) of each volume, rising, mm along the slice axis.
        subjects: (V,) the subject of each volume. Volumes of one subject are not compared.
        files: (V,) the file of each volume. The frames of one file run the same way.
        seed: decides the partners, where there are too many for all pairs, and the random orders.

    Returns:
        The places. If no slice is unlike another, no volume is determined.
    """
    generator = np.random.default_rng(seed)
    depths = [depth - depth[0] for depth in depths]
    steps_mm = [np.diff(depth) for depth in depths if len(depth) > 1]
    spacing = float(np.median(np.concatenate(steps_mm))) if steps_mm else 1.0
    median_length = float(np.median([depth[-1] for depth in depths]))
    width = max(WIDTH * spacing, LONG * median_length)
    wanted = choose_partners(subjects, generator)
    components = compact(features)
    signs, best = np.ones(len(depths)), components
    steps: np.ndarray | None = None
    for number in range(ROUNDS + 1):
        resampled = [resample(x, d, spacing) for x, d in zip(best, depths, strict=True)]
        pairs = compare(resampled, wanted)
        turned, clearness = find_directions(pairs, files)
        turned = np.where(clearness < CLEAR, 1, turned)
        if (turned < 0).any():
            signs = signs * turned
            components = [x[::-1] if s < 0 else x for x, s in zip(components, turned, strict=True)]
            depths = [d[-1] - d[::-1] if s < 0 else d for d, s in zip(depths, turned, strict=True)]
            pairs = turn(pairs, turned)
        steps = place(pairs) if steps is None else improve(pairs, steps)
        if components[0].shape[1]:
            at = coordinates(depths, steps * spacing, np.ones(len(depths)))
            least = np.median(clearness) if number == 0 else TRUSTED * clearness.max()
            best = discriminant(components, at, width, clearness >= least)
    assert steps is not None
    fit = refine(best, depths, steps * spacing, width, subjects, generator)
    at = coordinates(depths, fit.offsets, fit.scales)
    at = [x if s > 0 else x[::-1] for x, s in zip(at, signs, strict=True)]
    if signs.sum() < 0:  # more were turned than not: the axis runs as most volumes do
        signs, at = -signs, [-x for x in at]
    middle = float(np.median(np.concatenate(at)))
    return Alignment(
        ends=np.array([(x[0] - middle, x[-1] - middle) for x in at]),
        scales=fit.scales,
        directions=signs,
        clearness=clearness,
        determined=fit.evidence > np.maximum(fit.null, 0),
    )
