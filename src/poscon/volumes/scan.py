"""Reading a scan, from a file or in memory, and making a label map that lies exactly on it.

NIfTI goes through nibabel, NRRD, MHA and MetaImage through SimpleITK. Whatever the format, the
affine is in nibabel's convention: voxel index to millimetres in RAS+.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from poscon.errors import PosconError
from poscon.files import complete, printable

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".mha", ".mhd")
SUFFIXES = NIFTI + OTHERS
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # what matters is raised
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scan:
    """A scan: the content of a file, or what was given in memory.

    Attributes:
        path: the file; for a scan in memory, what messages call it.
        data: voxels, (X, Y, Z) or (X, Y, Z, frames), in the file's own axis order, scaled as the
            header says; integers stay integers where the header has no scaling.
        affine: (4, 4), voxel index to mm, RAS+.
        header: what the format's library needs to make an image with the same geometry; None for
            a NumPy array, which has none.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    header: Any

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the three spatial axes of the file."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class ScanHeader:
    """Shape and spacing of a scan file, read without its voxels."""

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    affine: np.ndarray


def scan_stem(path: Path) -> str:
    """The file name without its format suffix (``a.nii.gz`` -> ``a``)."""
    suffix = scan_suffix(path)
    return printable(path.name[: len(path.name) - len(suffix)] if suffix else path.name)


def scan_suffix(path: Path) -> str:
    """The format suffix of a scan file, lower case, or ``""`` if it is none that poscon reads."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def read_header(path: Path) -> ScanHeader:
    """Read shape and spacing only.

    Raises:
        PosconError: the file is missing, empty, broken or of a format poscon does not read.
    """
    _check_file(path)
    with _readable(path):
        if scan_suffix(path) in NIFTI:
            image = nib.load(path)
            affine = np.asarray(image.affine, float)
            shape = tuple(image.shape)
            single = image.get_data_dtype().kind in "biuf"
        else:
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            affine = _sitk_affine(reader)
            shape = tuple(reader.GetSize())
            single = reader.GetNumberOfComponents() == 1
    _check_scalar(single, path)
    _check_affine(affine, path)
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return ScanHeader(_spatial_shape(shape, path), (float(x), float(y), float(z)), affine)


def read_scan(path: Path) -> Scan:
    """Read a scan or a label map.

    Raises:
        PosconError: the file is missing, empty, truncated, of an unknown format, not 3-D or 4-D.
    """
    _check_file(path)
    with _readable(path):
        if scan_suffix(path) in NIFTI:
            return _scan_of_nibabel(nib.load(path), path)
        return _scan_of_itk(SimpleITK.ReadImage(str(path)), path)


def scan_in_memory(image: Any, affine: np.ndarray | None = None) -> Scan:
    """A scan that is in memory already.

    Args:
        image: a NIfTI image of nibabel, an image of SimpleITK, or an array, (X, Y, Z) or
            (X, Y, Z, frames).
        affine: (4, 4), voxel index to mm, RAS+; for an array, which needs it, and only for that.

    Raises:
        PosconError: another type, a wrong number of dimensions, several numbers per voxel, or an
            affine that is missing, singular or not needed.
    """
    name = Path("image")
    if isinstance(image, np.ndarray):
        if affine is None:
            raise PosconError("image: an array has no voxel size; give spacing or affine too")
        if np.shape(affine) != (4, 4):
            raise PosconError(f"affine: has shape {np.shape(affine)}, must be (4, 4)")
        if image.ndim not in (3, 4) or 0 in image.shape:
            raise PosconError(
                f"image: an array of shape {image.shape}; give (X, Y, Z) or (X, Y, Z, frames)"
            )
        _check_scalar(image.dtype.kind in "biuf", name)
        scan = Scan(name, image, np.asarray(affine, float), None)
    elif affine is not None:
        raise PosconError("affine: has no effect, the image has its own; leave it out")
    elif isinstance(image, nib.Nifti1Pair):
        # the header of a new image follows the affine, which may have been changed in place
        follows = type(image)(image.dataobj, image.affine, image.header)
        with _readable(name):
            scan = _scan_of_nibabel(follows, name)
    elif isinstance(image, SimpleITK.Image):
        scan = _scan_of_itk(image, name)
    else:
        raise PosconError(
            f"image: cannot be a {type(image).__name__}; give a file, a NumPy array, a NIfTI image "
            "of nibabel or an image of SimpleITK"
        )
    _check_affine(scan.affine, name)
    return scan


def _scan_of_nibabel(image: Any, path: Path) -> Scan:
    data = np.asanyarray(image.dataobj)
    _check_scalar(data.dtype.kind in "biuf", path)
    data = data.reshape(_spatial_shape(data.shape, path))
    return Scan(path, data, np.asarray(image.affine, float), image.header.copy())


def _scan_of_itk(image: Any, path: Path) -> Scan:
    _check_scalar(image.GetNumberOfComponentsPerPixel() == 1, path)
    data = SimpleITK.GetArrayFromImage(image).T
    data = data.reshape(_spatial_shape(data.shape, path))
    return Scan(path, data, _sitk_affine(image), image)


def write_labels(path: Path, labels: np.ndarray, like: Scan) -> None:
    """Write a label map with the geometry of ``like``: shape, affine and header codes.

    The file is complete or absent, never half-written. A .mhd has its voxels in a file beside it.

    Args:
        path: target; its format is that of its suffix, which must be of the family of ``like``.
        labels: integers of the same shape as ``like.data``.
        like: the scan that was segmented.
    """
    image = label_image(labels, like)
    _check_name(path)
    with complete(path) as part:
        if isinstance(image, SimpleITK.Image):
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        else:
            nib.save(image, part)


def label_image(labels: np.ndarray, like: Scan) -> Any:
    """A label map as an image of the same library as a scan, with the scan's geometry.

    Args:
        labels: integers of the same shape as ``like.data``.
        like: the scan that was segmented.

    Returns:
        An image of nibabel or of SimpleITK; the array itself for a scan that is an array.
    """
    assert labels.shape == like.data.shape
    if like.header is None:
        return labels
    if isinstance(like.header, nib.Nifti1Header):
        header = like.header.copy()
        header.set_data_dtype(labels.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, 0
        header["descrip"] = b""
        # nibabel keeps both codes only when the affine is the header's own, and it is.
        shape = header.get_data_shape()  # a file with trailing axes of 1 gets them back
        return type_of(header)(labels.reshape(shape), header.get_best_affine(), header)
    shape = like.header.GetSize()  # a single slice may be a 2-D file
    image = SimpleITK.GetImageFromArray(labels.reshape(shape).T, isVector=False)
    image.CopyInformation(like.header)
    return image


def type_of(header: Any) -> Any:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image


def _spatial_shape(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Drop trailing axes of length 1; a single slice stays a 3-D volume."""
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed.pop()
    while len(trimmed) < 3:
        trimmed.append(1)
    if len(trimmed) > 4 or min(trimmed) < 1 or len(shape) < 2:
        raise PosconError(f"{path}: shape {shape} is neither a 3-D volume nor a 4-D series")
    return tuple(int(n) for n in trimmed)


def _sitk_affine(image: Any) -> np.ndarray:
    """The RAS+ affine of a SimpleITK image or reader, whose own world is LPS+."""
    size = image.GetDimension()
    affine = np.eye(4)
    axes = min(size, 3)
    direction = np.array(image.GetDirection()).reshape(size, size)
    affine[:axes, :axes] = (direction * np.array(image.GetSpacing()))[:axes, :axes]
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return _RAS_FROM_LPS @ affine


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise PosconError(f"{path}: no such file")
    if not scan_suffix(path):
        raise PosconError(f"{path}: not a format poscon reads ({', '.join(SUFFIXES)})")
    _check_name(path)
    if path.stat().st_size == 0:
        raise PosconError(f"{path}: the file is empty (0 bytes); fetch it again")


def _check_name(path: Path) -> None:
    """SimpleITK ends the whole process at a path that is not UTF-8."""
    if scan_suffix(path) not in NIFTI and printable(str(path)) != str(path):
        raise PosconError(
            f"{path}: its name, or that of a folder above it, is not UTF-8, and files of this "
            "format need that; rename it"
        )


def _check_affine(affine: np.ndarray, path: Path) -> None:
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise PosconError(f"{path}: its affine is singular or not finite; correct the header")


def _check_scalar(single: bool, path: Path) -> None:
    if not single:
        raise PosconError(f"{path}: colour, vector or complex; poscon reads one number per voxel")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the format libraries raise on a broken file into one line that names it."""
    try:
        yield
    except PosconError:
        raise
    except (
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        zlib.error,
        ImageFileError,
        HeaderDataError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PosconError(
            f"{path}: cannot be read, the file is truncated or damaged ({reason[:120]})"
        ) from error
