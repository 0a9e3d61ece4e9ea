"""A volume as the page shows it, and as the bytes of a NIfTI file in memory."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np

WINDOW = (1.0, 99.5)
"""Percentiles of an image that are shown as black and as white."""
_SAMPLE = 1_000_000  # voxels that the percentiles are of


@dataclass(frozen=True)
class Volume:
    """A volume whose axes run towards right, anterior and superior.

    Attributes:
        data: (X, Y, Z).
        affine: (4, 4), voxel index to mm, RAS+.
    """

    data: np.ndarray
    affine: np.ndarray


def canonical(data: np.ndarray, affine: np.ndarray) -> Volume:
    """Permute and flip the axes of a file's volume until they run as those of a `Volume`.

    Args:
        data: (X, Y, Z) in the file's own order.
        affine: (4, 4), voxel index to mm, RAS+. An oblique one stays oblique.
    """
    orientation = nib.io_orientation(affine)
    turned = affine @ nib.orientations.inv_ornt_aff(orientation, data.shape)
    return Volume(nib.apply_orientation(data, orientation), turned)


def image_file(volume: Volume) -> bytes:
    """The NIfTI file of an image, with the window in which it is shown in its header.

    Integers are kept if 16 bits hold them. Others become float32.
    """
    data = volume.data
    limits = np.iinfo(np.int16)
    whole = data.dtype.kind in "biu" and data.min() >= limits.min and data.max() <= limits.max
    values = data.astype(np.int16) if whole else data.astype(np.float32)
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    low, high = np.percentile(sample, WINDOW)
    return _file(values, volume.affine, float(low), float(high))


def class_file(volume: Volume) -> bytes:
    """The NIfTI file of a map of class indices."""
    return _file(volume.data.astype(np.uint8), volume.affine)


def _file(data: np.ndarray, affine: np.ndarray, low: float = 0, high: float = 0) -> bytes:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = low, high
    content: bytes = image.to_bytes()
    return content
