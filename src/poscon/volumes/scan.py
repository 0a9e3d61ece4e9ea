"""Read a scan, from a file or in memory, and make a label map that lies exactly on it.

nibabel reads NIfTI. SimpleITK reads NRRD, MHA and MetaImage. In every format the affine has
nibabel's convention: voxel index to millimetres in RAS+. Every affine is checked by
:func:`poscon.volumes.affine.checked_affine`.
"""

import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from poscon.errors import PosconError
from poscon.files import complete, printable
from poscon.volumes.affine import (
    OPTION,
    Spacing,
    checked_affine,
    nifti_affines,
    positive_sizes,
    spacing_of,
)

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".mha", ".mhd")
SUFFIXES = NIFTI + OTHERS
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # errors are raised anyway
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ITK_READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_NIFTI_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by the header's length in bytes
_QUIET = logging.getLogger("poscon.nifti")  # errors are raised anyway
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


@dataclass(frozen=True)
class Scan:
    """A scan: the content of a file, or an image in memory.

    Attributes:
        path: the file; for a scan in memory, its name in messages.
        data: voxels, (X, Y, Z) or (X, Y, Z, frames), in the file's own axis order, scaled as the
            header says. Integers stay integers if the header has no scaling.
        affine: (4, 4), voxel index to mm, RAS+.
        header: header from which the format's library makes an image with the same geometry;
            None for a NumPy array.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    header: Any

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along the three spatial axes of the file."""
        return spacing_of(self.affine)


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
    """The format suffix of a scan file in lower case, or ``""`` if poscon does not read it."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def read_shape(path: Path) -> tuple[int, ...]:
    """Read the shape only, (X, Y, Z) or (X, Y, Z, frames). The affine is not checked.

    Raises:
        PosconError: the file is missing, empty, broken or in a format that poscon does not read.
    """
    return _open(path).shape


def read_header(path: Path, *, spacing: Spacing | None = None) -> ScanHeader:
    """Read shape, spacing and affine only.

    Args:
        path: the file.
        spacing: the true voxel size in mm along the file's axes, where the header's is wrong.

    Raises:
        PosconError: the file is missing, empty, broken or in a format that poscon does not read,
            or its header is not plausible.
    """
    opened = _open(path)
    affine = checked_affine(opened.affines, spacing, where=str(path))
    return ScanHeader(opened.shape, spacing_of(affine), affine)


def read_scan(path: Path, *, spacing: Spacing | None = None, option: str = OPTION) -> Scan:
    """Read a scan or a label map.

    Args:
        path: the file.
        spacing: the true voxel size in mm along the file's axes, where the header's is wrong.
        option: the option or argument that states ``spacing``, for the message.

    Raises:
        PosconError: the file is missing, empty, truncated, in an unknown format, or neither 3-D
            nor 4-D, or its header is not plausible.
    """
    opened = _open(path)
    affine = checked_affine(opened.affines, spacing, where=str(path), option=option)
    with _readable(path):
        if scan_suffix(path) in NIFTI:
            header = opened.header
            data = np.asanyarray(ArrayProxy(path, _mended(header)))
        else:
            header = _itk_reader(path).Execute()
            data = SimpleITK.GetArrayFromImage(header).T
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
    header: Any = None
    affines: tuple[np.ndarray, ...]
    if isinstance(image, np.ndarray):
        if affine is None and spacing is None:
            raise PosconError("image: an array has no voxel size; give spacing or affine too")
        if affine is not None and np.shape(affine) != (4, 4):
            raise PosconError(f"affine: has shape {np.shape(affine)}, must be (4, 4)")
        if image.ndim not in (3, 4) or 0 in image.shape:
            raise PosconError(
                f"image: an array of shape {image.shape}; give (X, Y, Z) or (X, Y, Z, frames)"
            )
        data = image
        affines = (np.eye(4) if affine is None else np.asarray(affine, float),)
    elif affine is not None:
        raise PosconError("affine: has no effect, the image has its own; leave it out")
    elif isinstance(image, nib.Nifti1Pair):
        with _readable(name):
            # the header of a new image is made from the affine, which may have changed in place
            header = type(image)(image.dataobj, image.affine, image.header).header.copy()
            data = np.asanyarray(image.dataobj)
        affines = nifti_affines(header)
        if image.affine is None:
            affines = (np.full((4, 4), np.nan), *affines)
    elif isinstance(image, SimpleITK.Image):
        header = image
        data = SimpleITK.GetArrayFromImage(image).T
        affines = _itk_affines(image)
    else:
        raise PosconError(
            f"image: cannot be a {type(image).__name__}; give a file, a NumPy array, a NIfTI image "
            "of nibabel or an image of SimpleITK"
        )
    single = data.dtype.kind in "biuf"
    if isinstance(image, SimpleITK.Image):
        single = image.GetNumberOfComponentsPerPixel() == 1
    _check_scalar(single, name)
    if header is not None:  # the answer to an array has the shape of the array
        data = data.reshape(_spatial_shape(data.shape, name))
    used = checked_affine(affines, spacing, where=str(name), option="spacing")
    return Scan(name, data, used, header)


def first_volume(scan: Scan) -> Scan:
    """Take the first volume of a 4-D scan, as a 3-D scan with the same geometry in space."""
    if isinstance(scan.header, nib.Nifti1Header):
        header = scan.header.copy()
        header.set_data_shape(scan.data.shape[:3])
    else:
        header = scan.header[:, :, :, 0]
    return replace(scan, data=scan.data[..., 0], header=header)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the keys and values that a NRRD, MHA or MHD header holds beside the geometry.

    Raises:
        PosconError: the file is missing, empty or broken.
    """
    header = _open(path).header
    return {key: header.GetMetaData(key) for key in header.GetMetaDataKeys()}


def voxel_file(path: Path) -> Path | None:
    """The file of the voxels that a .mhd header names, or None if it names none."""
    stated = re.search(rb"^ElementDataFile\s*=\s*(.+?)\s*$", path.read_bytes(), re.MULTILINE)
    name = "" if stated is None else stated[1].decode("utf-8", "replace")
    return None if name in ("", "LOCAL", "LIST") or "%" in name else path.parent / name


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
        if isinstance(like.header, nib.Nifti1Header):
            header = _label_header(labels, like.header)
            # nibabel keeps both codes and every number only if it is given no affine
            nib.save(type_of(header)(labels.reshape(header.get_data_shape()), None, header), part)
        else:
            SimpleITK.WriteImage(_itk_labels(labels, like.header), str(part), useCompression=True)


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
    if not isinstance(like.header, nib.Nifti1Header):
        return _itk_labels(labels, like.header)
    header = _label_header(labels, like.header)
    image, labels = type_of(header), labels.reshape(header.get_data_shape())
    try:
        affine = header.get_best_affine()
    except ValueError:  # nibabel does not take this quaternion
        affine = np.full((4, 4), np.nan)
    if np.isfinite(affine).all():
        return image(labels, affine, header)
    return image(labels, like.affine)


def _label_header(labels: np.ndarray, header: Any) -> Any:
    """Make the NIfTI header of a label map that lies where a scan with this header does."""
    header = header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"] = b""
    return header


def _itk_labels(labels: np.ndarray, like: Any) -> Any:
    """Make an ITK image of a label map that lies where another image does."""
    # a single slice may be a 2-D image, and trailing axes of length 1 are restored
    image = SimpleITK.GetImageFromArray(labels.reshape(like.GetSize()).T, isVector=False)
    image.CopyInformation(like)
    return image


def type_of(header: Any) -> Any:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image


def _spatial_shape(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Remove trailing axes of length 1. A single slice stays a 3-D volume."""
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed.pop()
    while len(trimmed) < 3:
        trimmed.append(1)
    if len(trimmed) > 4 or min(trimmed) < 1 or len(shape) < 2:
        raise PosconError(f"{path}: shape {shape} is neither a 3-D volume nor a 4-D series")
    return tuple(int(n) for n in trimmed)


@dataclass(frozen=True)
class _Opened:
    """The content of a file's header, before the affine is checked.

    Attributes:
        shape: (X, Y, Z) or (X, Y, Z, frames).
        affines: affines of the header, see :func:`poscon.volumes.affine.checked_affine`.
        header: the header, as an object of the format's library.
    """

    shape: tuple[int, ...]
    affines: tuple[np.ndarray, ...]
    header: Any


def _open(path: Path) -> _Opened:
    _check_file(path)
    with _readable(path):
        if scan_suffix(path) in NIFTI:
            header = _nifti_header(path)
            mended = _mended(header)
            shape, affines = mended.get_data_shape(), nifti_affines(header)
            single = mended.get_data_dtype().kind in "biuf"
        else:
            header = _itk_reader(path)
            header.ReadImageInformation()
            _check_axes(header, path)
            shape, affines = header.GetSize(), _itk_affines(header)
            single = header.GetNumberOfComponents() == 1
    _check_scalar(single, path)
    return _Opened(_spatial_shape(tuple(shape), path), affines, header)


def _nifti_header(path: Path) -> Any:
    """Read the header unchanged. nibabel's own reading replaces a voxel size of 0 by 1."""
    with ImageOpener(path) as file:
        length = file.read(4)
        kinds = (_NIFTI_HEADERS.get(int.from_bytes(length, order)) for order in ("little", "big"))
        kind = next((kind for kind in kinds if kind is not None), None)
        if kind is None:
            raise ImageFileError("it does not begin like a NIfTI file")
        file.seek(0)
        return kind.from_fileobj(file, check=False)


def _mended(header: Any) -> Any:
    """Copy a header, and correct small faults that do not affect the voxels.

    Raises:
        HeaderDataError: the header has a fault that affects them.
    """
    mended = header.copy()
    mended.check_fix(logger=_QUIET)
    return mended


def _itk_reader(path: Path) -> Any:
    """Make a reader for the file. It names the format, because ITK knows no suffix in capitals."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_ITK_READERS[scan_suffix(path)])
    reader.SetFileName(str(path))
    return reader


def _check_axes(reader: Any, path: Path) -> None:
    """Refuse a NRRD file whose first axes are not spatial. ITK would treat them as spatial."""
    keys = [f"NRRD_kinds[{axis}]" for axis in range(3)]
    kinds = [reader.GetMetaData(key) for key in keys if reader.HasMetaDataKey(key)]
    for axis, kind in enumerate(kinds, start=1):
        if kind not in ("domain", "space", "???", "none"):
            raise PosconError(
                f"{path}: axis {axis} is a {kind} axis; poscon reads the three axes of space first "
                "and frames or channels along the fourth: write the file in that order"
            )


def _itk_affines(reader: Any) -> tuple[np.ndarray, ...]:
    """The affine of an ITK image, LPS+ turned into RAS+, then the same for voxels of 1 mm."""
    size = reader.GetDimension()
    axes = min(size, 3)
    affines = []
    for sizes in (positive_sizes(reader.GetSpacing()), np.ones(size)):
        affine = np.eye(4)
        direction = np.array(reader.GetDirection()).reshape(size, size)
        affine[:axes, :axes] = (direction * sizes)[:axes, :axes]
        affine[:axes, 3] = reader.GetOrigin()[:axes]
        affines.append(_RAS_FROM_LPS @ affine)
    return tuple(affines)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise PosconError(f"{path}: no such file")
    if not scan_suffix(path):
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


def _check_scalar(single: bool, path: Path) -> None:
    if not single:
        raise PosconError(
            f"{path}: colour, vector, complex or a list of volumes in each voxel; poscon reads one "
            "number per voxel, and frames or channels along a fourth axis"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of the format libraries on a broken file into one line that names it."""
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
        reason = _reason(error, path)
        raise PosconError(f"{path}: cannot be read ({reason}); {_advice(path, reason)}") from error


def _reason(error: Exception, path: Path) -> str:
    """The reason in a library's error, without the library's own source and the path."""
    text = " ".join(str(error).split())
    text = re.sub(r"^Exception thrown in .*?\.[ch]xx:\d+: ", "", text)  # the library's own source
    text = re.sub(r"(?:sitk|ITK|itk)::?\s?ERROR: |ITK ERROR: ", "", text)
    text = text.removesuffix(" Reason: Success")  # the operating system saw no fault
    text = re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", text)
    text = text.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return text[:200] or type(error).__name__


def _advice(path: Path, reason: str) -> str:
    """Say what a user can do about a file that cannot be read."""
    if "domain axes" in reason:
        return "write it as 3-D files, or with frames as a fourth axis of space"
    if scan_suffix(path) == ".mhd" and (voxels := voxel_file(path)) and not voxels.is_file():
        return f"its voxels should be in {voxels.name} beside it, which is missing"
    if "spacing" in reason or "direction" in reason or "determinant" in reason:
        return "correct its header"
    return "is it truncated or damaged? Fetch it again"
