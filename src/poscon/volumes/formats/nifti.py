"""NIfTI-1 and NIfTI-2, by nibabel."""

import logging
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.volumeutils import apply_read_scaling

from poscon.volumes.affine import nifti_affines
from poscon.volumes.formats.base import Opened
from poscon.volumes.slabs import by_slabs

SUFFIXES = (".nii", ".nii.gz")
_MENDED_GEOMETRY = ("pixdim", "qform_code", "sform_code")
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by the header's length in bytes
_UNSCALED = ((1, 0), (None, None))  # slope and intercept that change nothing
_PART_BYTES = 2**22
_QUIET = logging.getLogger("poscon.nifti")  # errors are raised anyway
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class Nifti:
    """See :class:`poscon.volumes.formats.base.Format`."""

    def open(self, source: Path) -> Opened:
        header = _header(source)
        mended = _mended(header)
        kind = mended.get_data_dtype()
        taken = kind.itemsize
        if mended.get_slope_inter() not in _UNSCALED:
            taken += _scaled_type(kind).itemsize
        shape, scalar = mended.get_data_shape(), kind.kind in "biuf"
        return Opened(shape, nifti_affines(header), scalar, header, taken, kind.itemsize)

    def voxels(self, source: Path, opened: Opened) -> tuple[np.ndarray, Any]:
        proxy = ArrayProxy(source, _mended(opened.header))
        packed = source.name.lower().endswith(".gz")
        stored = _unpacked(source, proxy) if packed else np.asanyarray(proxy.get_unscaled())
        scaling = (proxy.slope, proxy.inter)
        if scaling in _UNSCALED:
            return stored, opened.header
        with np.errstate(over="ignore"):  # whoever uses the values looks for infinite ones
            scaled = by_slabs(
                lambda part: apply_read_scaling(part, *scaling), stored, _scaled_type(stored.dtype)
            )
        return scaled, opened.header

    def takes(self, image: Any) -> bool:
        return isinstance(image, nib.Nifti1Pair)

    def from_memory(self, image: Any) -> tuple[np.ndarray, Opened]:
        # the header of a new image is made from the affine, which may have changed in place
        header = type(image)(image.dataobj, image.affine, image.header).header.copy()
        data = np.asanyarray(image.dataobj)
        affines = nifti_affines(header)
        if image.affine is None:
            affines = (np.full((4, 4), np.nan), *affines)
        return data, Opened(data.shape, affines, data.dtype.kind in "biuf", header)

    def owns(self, header: Any) -> bool:
        return isinstance(header, nib.Nifti1Header)

    def first_volume(self, header: Any, shape: tuple[int, ...]) -> Any:
        header = header.copy()
        header.set_data_shape(shape)
        return header

    def label_image(self, labels: np.ndarray, header: Any, affine: np.ndarray) -> Any:
        header = _label_header(labels, header)
        image, labels = _type_of(header), labels.reshape(header.get_data_shape())
        try:
            stated = header.get_best_affine()
        except ValueError:  # nibabel does not take this quaternion
            stated = np.full((4, 4), np.nan)
        if not np.isfinite(stated).all():
            return image(labels, affine)
        return image(labels, stated, _mended(header))

    def save_labels(self, path: Path, labels: np.ndarray, header: Any) -> None:
        header = _label_header(labels, header)
        # nibabel keeps the affines only if it is given none, and mends the rest of the geometry
        image = _type_of(header)(labels.reshape(header.get_data_shape()), None, _mended(header))
        for field in _MENDED_GEOMETRY:
            image.header[field] = header[field]
        nib.save(image, path)


def _unpacked(path: Path, proxy: ArrayProxy) -> np.ndarray:
    """The stored numbers of a compressed file. gzip holds twice what it is asked for at once."""
    size = math.prod(proxy.shape) * proxy.dtype.itemsize
    content, done = bytearray(size), 0
    with ImageOpener(path) as file, memoryview(content) as whole:
        file.seek(proxy.offset)
        while done < size:
            read = file.readinto(whole[done : done + _PART_BYTES])
            if not read:
                raise OSError(f"Expected {size} bytes, got {done} bytes from {path.name}")
            done += read
    return np.ndarray(proxy.shape, proxy.dtype, content, order="F")


def _scaled_type(stored: np.dtype) -> np.dtype:
    """The type of scaled voxels: single precision, if it tells all stored numbers apart."""
    return np.dtype(np.float32 if stored.kind in "iu" and stored.itemsize <= 2 else np.float64)


def _header(path: Path) -> Any:
    """Read the header unchanged. nibabel's own reading replaces a voxel size of 0 by 1."""
    with ImageOpener(path) as file:
        length = file.read(4)
        kinds = (_HEADERS.get(int.from_bytes(length, order)) for order in ("little", "big"))
        kind = next((kind for kind in kinds if kind is not None), None)
        if kind is None:
            raise ImageFileError("it does not begin like a NIfTI file")
        file.seek(0)
        header = kind.from_fileobj(file, check=False)
    if header["vox_offset"] < header.sizeof_hdr:  # nibabel takes 0, and the header for voxels
        raise ImageFileError(f"vox_offset {header['vox_offset']:g}, that is inside its header")
    return header


def _mended(header: Any) -> Any:
    """Copy a header, and correct small faults that do not affect the voxels.

    Raises:
        HeaderDataError: the header has a fault that affects them.
    """
    mended = header.copy()
    mended.check_fix(logger=_QUIET)
    return mended


def _label_header(labels: np.ndarray, header: Any) -> Any:
    """Make the header of a label map that lies where a scan with this header does."""
    header = header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"] = b""
    header["vox_offset"] = 0  # nibabel finds it
    return header


def _type_of(header: Any) -> Any:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
