"""Intensity normalisation of one volume, with what is needed to say what was done."""

from dataclasses import dataclass

import numpy as np

from poscon.errors import PosconError

CT_PERCENTILES = (1.0, 99.0)
OUTER_PERCENTILES = (1.0, 99.0)
"""Between these lie nearly all values of a scan; they tell scans of different kinds apart."""
SAMPLED_VOXELS = 2**18
"""About as many voxels are enough for these percentiles."""
HOUNSFIELD_AIR = -200.0
"""A voxel this low or lower means Hounsfield units, where nobody says what the modality is."""


@dataclass(frozen=True)
class Intensity:
    """What was done to the intensities: clip to [low, high] if given, then (x - mean) / std."""

    modality: str
    low: float | None
    high: float | None
    mean: float
    std: float


def guess_modality(volume: np.ndarray) -> str:
    """``"CT"`` if the values look like Hounsfield units, else ``"MR"``."""
    return "CT" if volume.min() <= HOUNSFIELD_AIR else "MR"


def check_voxels(volume: np.ndarray, *, where: str) -> None:
    """Refuse a volume whose values cannot be normalised.

    Raises:
        PosconError: a voxel is NaN or infinite, or all voxels are equal, in single precision.
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


def normalise(volume: np.ndarray, modality: str) -> tuple[np.ndarray, Intensity]:
    """z-score over all voxels of the volume; CT is clipped to its 1st-99th percentile first.

    Args:
        volume: voxels of any shape that passed :func:`check_voxels`.
        modality: ``"CT"`` or ``"MR"``.

    Returns:
        float32 array of the same shape with mean 0 and standard deviation 1, and the record.
    """
    values = volume.astype(np.float32)
    low = high = None
    if modality == "CT":
        low, high = (float(p) for p in np.percentile(values, CT_PERCENTILES))
        if low < high:
            values = values.clip(low, high)
        else:  # nearly all voxels are equal; clipping would leave nothing
            low = high = None
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return (values - np.float32(mean)) / np.float32(std), Intensity(modality, low, high, mean, std)


def outer_percentiles(normalised: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99th percentile of a normalised volume, by voxels at equal distances.

    They do not change when the intensities are scaled, as the normalisation undoes that.
    """
    step = max(1, normalised.size // SAMPLED_VOXELS)
    low, high = np.percentile(normalised.ravel()[::step], OUTER_PERCENTILES)
    return float(low), float(high)
