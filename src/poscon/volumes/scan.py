"""Read a scan, from a file or in memory, and make a label map that lies exactly on it.

Each format has a reader of its own in :mod:`poscon.volumes.formats`. In every format the affine has
nibabel's convention: voxel index to millimetres in RAS+. Every affine is checked by
:func:`poscon.volumes.affine.checked_affine`.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from poscon.errors import PosconError
from poscon.files import complete, printable, safe_name
from poscon.volumes.affine import OPTION, Spacing, checked_affine, spacing_of
from poscon.volumes.formats import itk, nifti
from poscon.volumes.formats.base import (
    Format,
    Opened,
    Reader,
    check_memory,
    check_scalar,
    check_size,
    readable,
    spatial_shape,
    voxel_file,
)
from poscon.volumes.series import Series, Source, is_dicom

NIFTI = nifti.SUFFIXES
SUFFIXES = nifti.SUFFIXES + itk.SUFFIXES
_NIFTI, _ITK = nifti.Nifti(), itk.Itk()
_FORMATS: tuple[Format, ...] = (_NIFTI, _ITK)


@dataclass(frozen=True)
class Scan:
    """A scan: the content of a file, or an image in memory.

    Attributes:
        path: the file, or the DICOM series; for a scan in memory, its name in messages.
        data: voxels, (X, Y, Z) or (X, Y, Z, frames), in the file's own axis order, scaled as the
            header says. Integers stay integers if the header has no scaling. Scaled integers of
            NIfTI files are float32 if they have at most 16 bits.
        affine: (4, 4), voxel index to mm, RAS+.
        header: header from which the format's library makes an image with the same geometry;
            None for a NumPy array.
    """

    path: Source
    data: np.ndarray
    affine: np.ndarray
    header: Any

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along the three spatial axes of the file."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class ScanHeader:
    """Shape and spacing of a scan file, read without its voxels.

    Attributes:
        voxel_bytes: about how many bytes a voxel takes while the file is read.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    affine: np.ndarray
    voxel_bytes: int = 4


def scan_stem(path: Path) -> str:
    """The file name without its format suffix (``a.nii.gz`` -> ``a``)."""
    suffix = scan_suffix(path)
    return safe_name(path.name[: len(path.name) - len(suffix)] if suffix else path.name)


def scan_suffix(path: Path) -> str:
    """The format suffix of a scan file in lower case, or ``""`` if poscon does not read it."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def label_suffix(path: Source) -> str:
    """The suffix of label maps that lie on a scan: its own, or that of NIfTI for DICOM."""
    return NIFTI[-1] if isinstance(path, Series) else scan_suffix(path)


def read_shape(path: Source) -> tuple[int, ...]:
    """Read the shape only, (X, Y, Z) or (X, Y, Z, frames). The affine is not checked.

    Raises:
        PosconError: the file is missing, empty, broken or in a format that poscon does not read.
    """
    return _open(path).shape


def read_header(path: Source, *, spacing: Spacing | None = None) -> ScanHeader:
    """Read shape, spacing and affine only.

    Args:
        path: the file, or a DICOM series.
        spacing: the true voxel size in mm along the file's axes, where the header's is wrong.

    Raises:
        PosconError: the file is missing, empty, broken or in a format that poscon does not read,
            or its header is not plausible.
    """
    opened = _open(path)
    affine = checked_affine(opened.affines, spacing, where=str(path))
    return ScanHeader(opened.shape, spacing_of(affine), affine, opened.voxel_bytes)


def read_scan(path: Source, *, spacing: Spacing | None = None, option: str = OPTION) -> Scan:
    """Read a scan or a label map.

    Args:
        path: the file, or a DICOM series.
        spacing: the true voxel size in mm along the file's axes, where the header's is wrong.
        option: the option or argument that states ``spacing``, for the message.

    Raises:
        PosconError: the file is missing, empty, truncated, in an unknown format, or neither 3-D
            nor 4-D, or its header is not plausible.
    """
    opened = _open(path)
    affine = checked_affine(opened.affines, spacing, where=str(path), option=option)
    with _readable(path):
        data, header = _reader(path).voxels(path, opened)
    return Scan(path, data.reshape(opened.shape), affine, header)


def scan_in_memory(
    image: Any, affine: np.ndarray | None = None, *, spacing: Spacing | None = None
) -> Scan:
    """Make a scan from an image in memory.

    Args:
        image: a NIfTI image of nibabel, an image of SimpleITK, or an array, (X, Y, Z) or
            (X, Y, Z, frames).
        affine: (4, 4), voxel index to mm, RAS+; for an array only.
        spacing: the true voxel size in mm along the three axes, where that of the image is wrong.
            An array needs ``spacing`` or ``affine``. With ``spacing`` alone its axes run towards
            right, anterior and superior.

    Raises:
        PosconError: the image has another type, a wrong number of dimensions or several numbers
            per voxel, or the affine is missing, not needed or not plausible.
    """
    name = Path("image")
    if isinstance(image, np.ndarray):
        data, opened = image, _opened_array(image, affine, spacing)
    elif affine is not None:
        raise PosconError("affine: has no effect, the image has its own; leave it out")
    else:
        form = next((form for form in _FORMATS if form.takes(image)), None)
        if form is None:
            raise PosconError(
                f"image: cannot be a {type(image).__name__}; give a file, a NumPy array, a NIfTI "
                "image of nibabel or an image of SimpleITK"
            )
        with readable(name):
            data, opened = form.from_memory(image)
    check_scalar(opened, name)
    if opened.header is not None:  # the answer to an array has the shape of the array
        data = data.reshape(spatial_shape(data.shape, name))
    used = checked_affine(opened.affines, spacing, where=str(name), option="spacing")
    return Scan(name, data, used, opened.header)


def first_volume(scan: Scan) -> Scan:
    """Take the first volume of a 4-D scan, as a 3-D scan with the same geometry in space."""
    header = _owner(scan.header).first_volume(scan.header, scan.data.shape[:3])
    return replace(scan, data=scan.data[..., 0], header=header)


def without_voxels(scan: Scan) -> Scan:
    """The scan with zeros as voxels, which take no memory: its shape and its geometry stay."""
    return replace(scan, data=np.broadcast_to(scan.data.dtype.type(0), scan.data.shape))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the keys and values that a NRRD, MHA or MHD header holds beside the geometry.

    Raises:
        PosconError: the file is missing, empty or broken.
    """
    header = _open(path).header
    return {key: header.GetMetaData(key) for key in header.GetMetaDataKeys()}


def write_labels(path: Path, labels: np.ndarray, like: Scan) -> None:
    """Write a label map with the geometry of ``like``: shape, affine and header codes.

    The file is complete or absent, never half-written. A .mhd has its voxels in a file beside it.

    Args:
        path: file to write. Its suffix gives the format, which must be of the family of ``like``.
        labels: integers, an array of the same shape as ``like.data``.
        like: the scan that was segmented.
    """
    assert labels.shape == like.data.shape
    _check_name(path)
    with complete(path) as part:
        _owner(like.header).save_labels(part, labels, like.header)


def label_image(labels: np.ndarray, like: Scan) -> Any:
    """Make an image of a label map, in the library and with the geometry of a scan.

    Args:
        labels: integers, an array of the same shape as ``like.data``.
        like: the scan that was segmented.

    Returns:
        An image of nibabel or of SimpleITK; the array itself for a scan that is an array.
    """
    assert labels.shape == like.data.shape
    if like.header is None:
        return labels
    return _owner(like.header).label_image(labels, like.header, like.affine)


def _reader(path: Source) -> Reader:
    if isinstance(path, Series):
        from poscon.volumes.formats.dicom.reader import Dicom  # most commands need no pydicom

        return Dicom()
    return _NIFTI if scan_suffix(path) in NIFTI else _ITK


def _readable(path: Source) -> AbstractContextManager[None]:
    """See :func:`poscon.volumes.formats.base.readable`. The reader of DICOM does it by itself."""
    return nullcontext() if isinstance(path, Series) else readable(path)


def _owner(header: Any) -> Format:
    return next(form for form in _FORMATS if form.owns(header))


def _open(path: Source) -> Opened:
    """Read a header, checked in all but its affine."""
    if not isinstance(path, Series):
        _check_file(path)
    with _readable(path):
        opened = _reader(path).open(path)
    check_scalar(opened, path)
    opened = replace(opened, shape=spatial_shape(opened.shape, path))
    if isinstance(path, Series):
        check_memory(math.prod(opened.shape) * opened.voxel_bytes, path)
    else:
        with _readable(path):
            check_size(opened, (scan_suffix(path) == ".mhd" and voxel_file(path)) or path)
    return opened


def _opened_array(image: np.ndarray, affine: np.ndarray | None, spacing: Spacing | None) -> Opened:
    """What stands for the header of an array."""
    if affine is None and spacing is None:
        raise PosconError("image: an array has no voxel size; give spacing or affine too")
    if affine is not None and np.shape(affine) != (4, 4):
        raise PosconError(f"affine: has shape {np.shape(affine)}, must be (4, 4)")
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise PosconError(
            f"image: an array of shape {image.shape}; give (X, Y, Z) or (X, Y, Z, frames)"
        )
    stated = np.eye(4) if affine is None else np.asarray(affine, float)
    return Opened(image.shape, (stated,), image.dtype.kind in "biuf", None)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise PosconError(f"{path}: no such file")
    if not scan_suffix(path):
        if is_dicom(path):
            raise PosconError(f"{path}: one file of a DICOM series; give the folder of the series")
        raise PosconError(f"{path}: not a format poscon reads ({', '.join(SUFFIXES)})")
    _check_name(path)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise PosconError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error
    if empty:
        raise PosconError(f"{path}: the file is empty (0 bytes); fetch it again")


def _check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8. SimpleITK would end the whole process."""
    if scan_suffix(path) not in NIFTI and printable(str(path)) != str(path):
        raise PosconError(
            f"{path}: its name, or that of a folder above it, is not UTF-8, and files of this "
            "format need that; rename it"
        )
