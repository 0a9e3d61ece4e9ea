"""Intensity normalisation of one volume, with what is needed to say what was done."""

from dataclasses import dataclass

import numpy as np

from poscon.errors import PosconError
from poscon.volumes.label_maps import looks_like_label_map

CT_PERCENTILES = (1.0, 99.0)
OUTER_PERCENTILES = (1.0, 99.0)
"""Nearly all values of a scan lie between these; they tell scans of different kinds apart."""
SAMPLED_VOXELS = 2**18
"""About as many voxels are enough for these percentiles."""
AIR_HU = -1000.0
LOWEST_HU = -1024.0
"""The lower limit of the usual 12 bits: what is below is noise or the edge of padding."""
PADDING_BELOW_HU = -1200.0
PADDING_SHARE = 1e-3
PADDING_VOXELS = 10
"""In CT, one value below ``PADDING_BELOW_HU`` in so many of the voxels is padding, not anatomy."""
HOUNSFIELD_AIR = -200.0
"""A voxel this low or lower means Hounsfield units, where nobody says what the modality is."""


@dataclass(frozen=True)
class Intensity:
    """What was done to the intensities: clip to [low, high] if given, then (x - mean) / std.

    Attributes:
        modality: ``"CT"`` or ``"MR"``.
        low: lower limit, or None.
        high: upper limit, or None.
        mean: mean of the clipped voxels that count.
        std: standard deviation of the same voxels.
        padding: share of the voxels that are padding of a CT, see :func:`padding_of`.
        percentiles: 1st and 99th percentile of the normalised voxels that count, by voxels at equal
            distances. They do not change when the intensities are scaled.
    """

    modality: str
    low: float | None
    high: float | None
    mean: float
    std: float
    padding: float
    percentiles: tuple[float, float]


def guess_modality(volume: np.ndarray) -> str:
    """``"CT"`` if the values look like Hounsfield units, else ``"MR"``."""
    return "CT" if volume.min() <= HOUNSFIELD_AIR else "MR"


def check_voxels(volume: np.ndarray, *, where: str) -> None:
    """Refuse a volume whose values cannot be normalised.

    Raises:
        PosconError: a voxel is NaN or infinite, or all voxels are equal, in single precision; the
            volume is a label map by its values.
    """
    with np.errstate(over="ignore"):
        volume = volume.astype(np.float32)
    if not np.isfinite(volume).all():
        bad = int(volume.size - np.isfinite(volume).sum())
        raise PosconError(
            f"{where}: {bad} voxel(s) are NaN or infinite; replace them or leave the file out"
        )
    if volume.min() == volume.max():
        raise PosconError(
            f"{where}: every voxel has the value {volume.flat[0]:g}, there is nothing to see; "
            "leave the file out"
        )
    if looks_like_label_map(volume):
        raise PosconError(
            f"{where}: looks like a label map, not a scan ({len(np.unique(volume))} whole values); "
            "name it so that it is read as one (docs/reference/layouts.md), or leave it out"
        )


def padding_of(volume: np.ndarray) -> np.ndarray:
    """Which voxels of a CT are padding: outside the circle that was scanned, or added afterwards.

    Scanners and converters write a constant far below air there: -2000, -2048, -3024 and others.

    Args:
        volume: voxels of any shape, in Hounsfield units.

    Returns:
        Booleans of the same shape.
    """
    low = volume[volume < PADDING_BELOW_HU]
    values, counts = np.unique(low, return_counts=True)
    return np.isin(volume, values[counts >= max(PADDING_SHARE * volume.size, PADDING_VOXELS)])


def normalise(volume: np.ndarray, modality: str) -> tuple[np.ndarray, Intensity]:
    """z-score of the volume; CT is clipped to its 1st-99th percentile first.

    The statistics are those of the picture without its empty margin: outer rows, columns and slices
    of one value throughout do not count, so that a scan has the same values inside however widely
    it was cut. Padding within the picture, such as the corners around the circle of a CT, counts as
    air. Why: docs/decisions/0019-padding.md.

    Args:
        volume: voxels of any shape that passed :func:`check_voxels`.
        modality: ``"CT"`` or ``"MR"``.

    Returns:
        float32 array of the same shape, and the record of what was done. Where there is no margin
        the mean is 0 and the standard deviation 1.
    """
    values = volume.astype(np.float32)
    padding = padding_of(values) if modality == "CT" else np.zeros(values.shape, bool)
    filled = np.where(padding, np.float32(AIR_HU), values)
    counted = filled[_without_margin(filled)]
    if counted.size == 0 or counted.min() == counted.max():  # all but one value is margin
        counted = filled
    low = high = None
    if modality == "CT":
        low, high = (float(p) for p in np.percentile(counted, CT_PERCENTILES))
        low = max(low, LOWEST_HU) if high > LOWEST_HU else low
        if low < high:
            values, counted = values.clip(low, high), counted.clip(low, high)
        else:  # nearly all voxels are equal; clipping would leave nothing
            low = high = None
    mean, std = float(counted.mean(dtype=np.float64)), float(counted.std(dtype=np.float64))
    step = max(1, counted.size // SAMPLED_VOXELS)
    outer = np.percentile(counted.ravel()[::step], OUTER_PERCENTILES)
    first, last = ((float(value) - mean) / std for value in outer)
    normalised = (values - np.float32(mean)) / np.float32(std)
    share = float(padding.mean())
    return normalised, Intensity(modality, low, high, mean, std, share, (first, last))


def _without_margin(volume: np.ndarray) -> tuple[slice, ...]:
    """The box within the outer rows, columns and slices that are of one value throughout."""
    box = []
    for axis in range(volume.ndim):
        others = tuple(i for i in range(volume.ndim) if i != axis)
        varied = np.flatnonzero(volume.max(axis=others) > volume.min(axis=others))
        box.append(slice(varied[0], varied[-1] + 1) if varied.size else slice(0))
    return tuple(box)
