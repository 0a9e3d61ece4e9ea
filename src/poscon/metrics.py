"""Overlap and surface distance between two segmentations of the same volume."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MM3_PER_ML = 1000.0
NSD_TOLERANCE_MM = 2.0
"""Distance in mm up to which two surfaces agree, unless another one is given."""
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class of one volume was segmented.

    Attributes:
        name: the class.
        dice: 2 |A and B| / (|A| + |B|), 0 to 1.
        hd95_mm: the larger of the two directed 95th percentiles of the surface distances, in mm.
        assd_mm: the mean of the surface distances of both directions together, in mm.
        nsd: normalised surface Dice, the share of both surfaces within the tolerance, 0 to 1.
        rvd: relative volume difference, (prediction - reference) / reference, -1 or more.
        volume_ml: volume of the class in the prediction, in ml.
        reference_volume_ml: volume of the class in the reference, in ml.
    """

    name: str
    dice: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    rvd: float
    volume_ml: float
    reference_volume_ml: float


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    class_names: Sequence[str],
    counted: np.ndarray | None = None,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    voxel_mm3: float | None = None,
) -> list[ClassMetrics]:
    """Compare two class maps class by class.

    The surface of a class is its voxels that have at least one of their 6 face neighbours outside
    the class. Everything outside the volume is outside the class, except that a volume of one slice
    has no neighbours across it: its surface is the contour. The distance of a surface voxel
    is the Euclidean distance in mm between its centre and the nearest voxel centre of the other
    surface. Percentiles are interpolated linearly.

    The normalised surface Dice (Nikolov et al., 2021) is the number of surface voxels of both maps
    whose distance is at most the tolerance, over the number of all. So surface voxels are counted,
    and not weighted by the area that they stand for, as the other measures here do not weight them.

    If a class is absent from both maps, all measures are NaN, and means leave them out. If it is
    absent from exactly one map, Dice and NSD are 0, and HD95 and ASSD are the diagonal of the
    volume in mm. These are the worst values, so a missed structure can never improve a mean. The
    relative volume difference is then -1 if the prediction lacks the class, and NaN if the
    reference does.

    Where not all voxels count, both maps are cut to those that do before anything is measured.
    Volumes are of voxels that count too. A neighbour that does not count is unknown, and makes no
    surface: so between slices that do not count, the surface of a slice is its contour. If no
    neighbour of a class counts, all its voxels are surface.

    Args:
        prediction: (X, Y, Z), integers, 0 = background, ``i + 1`` = ``class_names[i]``.
        reference: the same shape and meaning.
        spacing: voxel size in mm along X, Y, Z. The axes are taken as orthogonal.
        class_names: the foreground classes.
        counted: (X, Y, Z) bool, which voxels count; None: all.
        nsd_tolerance_mm: distance in mm up to which surfaces agree.
        voxel_mm3: volume of a voxel; None: the product of ``spacing``. It is less where the axes
            are oblique to each other, as in CT with a tilted gantry.

    Returns:
        One entry for each class, in the order of ``class_names``.

    Raises:
        ValueError: the maps do not have the same 3-D shape.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(f"expected two equal 3-D shapes: {prediction.shape}, {reference.shape}")
    voxel_ml = (float(np.prod(spacing)) if voxel_mm3 is None else voxel_mm3) / MM3_PER_ML
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    if counted is None:
        counted = np.ones(prediction.shape, bool)
    metrics = []
    for index, name in enumerate(class_names, start=1):
        predicted, expected = (prediction == index) & counted, (reference == index) & counted
        n_predicted, n_expected = int(predicted.sum()), int(expected.sum())
        if not n_predicted and not n_expected:
            dice = hd95 = assd = nsd = float("nan")
        elif not n_predicted or not n_expected:
            dice, hd95, assd, nsd = 0.0, diagonal, diagonal, 0.0
        else:
            dice = 2 * int((predicted & expected).sum()) / (n_predicted + n_expected)
            distances = _surface_distances(predicted, expected, counted, spacing)
            both = np.concatenate(distances)
            hd95 = max(float(np.percentile(each, 95)) for each in distances)
            assd = float(both.mean())
            nsd = int((both <= nsd_tolerance_mm * _ROUNDING).sum()) / len(both)
        rvd = (n_predicted - n_expected) / n_expected if n_expected else float("nan")
        ml = n_predicted * voxel_ml, n_expected * voxel_ml
        metrics.append(ClassMetrics(name, dice, hd95, assd, nsd, rvd, *ml))
    return metrics


def _surface_distances(
    a: np.ndarray, b: np.ndarray, counted: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm from each surface voxel of a mask to the surface of another, and back.

    Args:
        a: (X, Y, Z) bool, not empty.
        b: the same.
        counted: (X, Y, Z) bool, which voxels count.
        spacing: voxel size in mm along X, Y, Z.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    (tight,) = find_objects((a | b).view(np.uint8))
    # one voxel more on each side, because a neighbour may count or not
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in tight)
    first, second = (_surface(mask[box], counted[box]) for mask in (a, b))
    to_first, to_second = (
        distance_transform_edt(~surface, sampling=spacing) for surface in (first, second)
    )
    return to_second[first], to_first[second]


def _surface(mask: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The voxels of a mask with a face neighbour that counts and is outside the mask."""
    outside = np.pad(counted & ~mask, 1, constant_values=True)
    surface = np.zeros_like(mask)
    for axis, length in enumerate(mask.shape):
        if length == 1:
            continue
        for start in (0, 2):
            at = [slice(1, -1)] * mask.ndim
            at[axis] = slice(start, start + length)
            surface |= mask & outside[tuple(at)]
    return surface if surface.any() else mask
