"""Overlap and surface distance between two segmentations of the same volume."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MM3_PER_ML = 1000.0
NSD_TOLERANCE_MM = 2.0
"""Distance in mm up to which two surfaces agree, unless another one is given."""
_ROUNDING = 1 + 1e-6  # distances are in single precision


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
) -> list[ClassMetrics]:
    """Compare two class maps class by class.

    The surface of a class is its voxels that have at least one of their 6 face neighbours outside
    the class. Everything outside the volume is outside the class. The distance of a surface voxel
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

    Where not all voxels count, both maps are cut to those that do before anything is measured: what
    does not count is outside every class. Volumes are of voxels that count too.

    Args:
        prediction: (X, Y, Z), integers, 0 = background, ``i + 1`` = ``class_names[i]``.
        reference: the same shape and meaning.
        spacing: voxel size in mm along X, Y, Z.
        class_names: the foreground classes.
        counted: (X, Y, Z) bool, which voxels count; None: all.
        nsd_tolerance_mm: distance in mm up to which surfaces agree.

    Returns:
        One entry for each class, in the order of ``class_names``.

    Raises:
        ValueError: the maps do not have the same 3-D shape.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(f"expected two equal 3-D shapes: {prediction.shape}, {reference.shape}")
    voxel_ml = float(np.prod(spacing)) / MM3_PER_ML
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    metrics = []
    for index, name in enumerate(class_names, start=1):
        predicted, expected = prediction == index, reference == index
        if counted is not None:
            predicted, expected = predicted & counted, expected & counted
        n_predicted, n_expected = int(predicted.sum()), int(expected.sum())
        if not n_predicted and not n_expected:
            dice = hd95 = assd = nsd = float("nan")
        elif not n_predicted or not n_expected:
            dice, hd95, assd, nsd = 0.0, diagonal, diagonal, 0.0
        else:
            dice = 2 * int((predicted & expected).sum()) / (n_predicted + n_expected)
            hd95, assd, nsd = _surface_measures(predicted, expected, spacing, nsd_tolerance_mm)
        rvd = (n_predicted - n_expected) / n_expected if n_expected else float("nan")
        ml = n_predicted * voxel_ml, n_expected * voxel_ml
        metrics.append(ClassMetrics(name, dice, hd95, assd, nsd, rvd, *ml))
    return metrics


def _surface_measures(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float], tolerance_mm: float
) -> tuple[float, float, float]:
    """HD95 and ASSD in mm, and NSD, of two masks (X, Y, Z), neither of them empty.

    MONAI finds the surfaces and measures their distances as defined above, in single precision. The
    tests compare them with a brute-force reference. Empty masks have no distance.
    """
    import torch
    from monai.metrics.utils import get_edge_surface_distance
    from scipy.ndimage import find_objects

    # MONAI copies the whole volume before it crops, so it is cropped here first.
    (box,) = find_objects((a | b).view(np.uint8))
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that MONAI itself passes.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        _, distances, _ = get_edge_surface_distance(
            *(torch.from_numpy(mask[box].astype(np.float32)) for mask in (a, b)),
            spacing=spacing,
            symmetric=True,
        )
    hd95 = max(each.quantile(0.95).item() for each in distances)
    both = torch.cat(distances)
    within = int((both <= tolerance_mm * _ROUNDING).sum())
    return hd95, both.mean().item(), within / len(both)
