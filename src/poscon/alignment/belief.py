"""Whether what the images say is to be believed: the places of volumes, and their directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from poscon.alignment.align import CLEAR, Alignment
from poscon.alignment.directions import synchronise
from poscon.alignment.matches import Matches, nearest_of_volumes, nearest_slices
from poscon.positions import relative_positions

LESS = 0.9
"""What the images say has to bring alike slices nearer, to this share of their distance."""
FEWEST = 8
"""Subjects of which the images are believed. With fewer wrong places looked right."""
NEAREST = 5
"""Slices of other subjects that a slice is matched with, for places."""
PARTNERS = 15
"""Volumes with which a slice is matched, for directions."""
SAME = 0.4
"""Median clearness of directions in the scan, below which the volumes do not show the same from end
to end. Directions then mean nothing."""

Source = Literal["images", "scan"]


@dataclass(frozen=True)
class Believed:
    """The places and directions that are believed.

    Attributes:
        source: ``images``: the volumes lie where :func:`poscon.alignment.align.align` put them.
            ``scan``: they all lie from one end of the axis to the other, as their scans say.
        ends: (V, 2) coordinates in mm of the first and the last slice.
        directions: (V,) 1, or -1 where the slices run against those of the majority.
        clearness: (V,) how clear the direction is, from 0 to 1.
        determined: (V,) whether the images say where the volume lies; by the scan: never.
        apart: by source, how far apart in mm slices usually lie that look alike, see
            :func:`believe`. None: it was not measured, because there are too few subjects, or no
            slice says where it lies.
    """

    source: Source
    ends: np.ndarray
    directions: np.ndarray
    clearness: np.ndarray
    determined: np.ndarray
    apart: dict[Source, float] | None


def believe(
    components: Sequence[np.ndarray],
    informative: Sequence[np.ndarray],
    depths: Sequence[np.ndarray],
    subjects: Sequence[str],
    files: Sequence[str],
    found: Alignment,
) -> Believed:
    """Choose between the places that the images give, and those in the scan.

    Where every scan shows the same organ from end to end, the place in the scan says already what a
    slice shows. Images can then mislead: the chests of two patients are alike, and their hearts do
    not lie at one level. So the images are believed where they bring slices that look alike
    clearly nearer to each other. A volume gains nothing by lying far away from the others.

    How near is the geometric mean of (distance plus one slice step), over slices and their five
    nearest ones. A few matches that are far off would decide an arithmetic mean. In the images'
    favour this has to be less than 0.9 of that by the scan, of eight subjects at least.

    The places in the scan are :func:`poscon.positions.relative_positions`, stretched to the median
    extent of the volumes. They have directions of their own, see :func:`_directions_in_scan`.

    Args:
        components: (slices, K) of each volume, from :func:`poscon.alignment.likeness.compact`. They
            were not fitted to any places.
        informative: (slices,) bool of each volume: whether a slice shows anything.
        depths: (slices,) of each volume, rising, mm along the slice axis.
        subjects: (V,) the subject of each volume.
        files: (V,) the file of each volume. The frames of one file run the same way.
        found: what the images say.
    """
    steps = [np.diff(depth) for depth in depths if len(depth) > 1]
    step = float(np.median(np.concatenate(steps))) if steps else 1.0
    extent = float(np.median([depth[-1] - depth[0] + step for depth in depths]))
    in_scan = [extent * (relative_positions(len(depth)) - 0.5) for depth in depths]
    seen = {who for who, slices in zip(subjects, informative, strict=True) if slices.any()}
    directions, clearness = np.ones(len(depths)), np.zeros(len(depths))
    if found.determined.any() and len(seen) > 1:
        matches = nearest_of_volumes(components, informative, subjects, PARTNERS)
        directions, clearness = _directions_in_scan(matches, in_scan, files, step)
    in_scan = [at if sign > 0 else at[::-1] for at, sign in zip(in_scan, directions, strict=True)]
    apart: dict[Source, float] | None = None
    if found.determined.any() and len(seen) >= FEWEST:
        by_images = [
            np.linspace(first, last, len(depth))
            for (first, last), depth in zip(found.ends, depths, strict=True)
        ]
        matches = nearest_slices(components, informative, subjects, NEAREST)
        near = {
            source: float(np.exp(matches.logarithms(at, at, step).mean()))
            for source, at in (("scan", in_scan), ("images", by_images))
        }
        apart = {"scan": near["scan"] - step, "images": near["images"] - step}
        if near["images"] < LESS * near["scan"]:
            said = found.directions, found.clearness, found.determined
            return Believed("images", found.ends, *said, apart)
    ends = np.array([(at[0], at[-1]) for at in in_scan])
    return Believed("scan", ends, directions, clearness, np.zeros(len(ends), bool), apart)


def _directions_in_scan(
    matches: Matches, in_scan: Sequence[np.ndarray], files: Sequence[str], step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the volumes that run against the majority, where all show the same from end to end.

    A slice and the one that looks like it lie near to each other if both volumes run the same way,
    and near to each other's mirror places if they do not. Each such pair votes by how much nearer
    that is, as a logarithm. The votes are brought together as in
    :func:`poscon.alignment.directions.find_directions`.

    Returns:
        (V,) +1, or -1 for a volume that clearly runs the other way, and (V,) how clear it is. All
        are +1 where most of the volumes do not show the same from end to end.
    """
    names, file_of = np.unique(np.asarray(files, str), return_inverse=True)
    mirrored = [at[::-1] for at in in_scan]
    votes = matches.logarithms(mirrored, in_scan, step) - matches.logarithms(in_scan, in_scan, step)
    one = np.repeat(file_of[matches.volumes], votes.shape[1])
    signs, clearness = synchronise(one, file_of[matches.others].ravel(), votes.ravel(), len(names))
    if (signs * (clearness >= CLEAR))[file_of].sum() < 0:
        signs = -signs
    if np.median(clearness) < SAME:
        signs = np.ones(len(names))
    signs = np.where(clearness < CLEAR, 1.0, signs)
    return signs[file_of], clearness[file_of]
