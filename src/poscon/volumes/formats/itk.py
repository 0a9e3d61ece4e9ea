"""NRRD, MHA and MetaImage, by SimpleITK."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from poscon.errors import PosconError
from poscon.volumes.affine import positive_sizes
from poscon.volumes.formats.base import LONGEST_HEADER, Opened, is_plain

SUFFIXES = (".nrrd", ".mha", ".mhd")
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # errors are raised anyway
_BLANK = re.compile(rb"\r?\n\r?\n")  # the end of a header of NRRD
_LAST = re.compile(rb"^\s*ElementDataFile.*$", re.MULTILINE)  # the same of MetaImage
_PAIR = re.compile(rb"[^:]{1,200}:=")  # a key and a value of NRRD, which may be long
_ELSEWHERE = re.compile(rb"\s*(?:data ?file|ElementDataFile)\s*[:=]\s*(.*)", re.IGNORECASE)
_LONGEST_LINE = 1000
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}


class Itk:
    """See :class:`poscon.volumes.formats.base.Format`."""

    def open(self, source: Path) -> Opened:
        _check_text(source)
        reader = _reader(source)
        reader.ReadImageInformation()
        _check_axes(reader, source)
        scalar = reader.GetNumberOfComponents() == 1
        stored = _voxel_bytes(reader.GetPixelID())
        shape, taken = tuple(reader.GetSize()), 2 * stored  # ITK's own, and a copy
        return Opened(shape, _affines(reader), scalar, reader, taken, stored)

    def voxels(self, source: Path, opened: Opened) -> tuple[np.ndarray, Any]:
        image = _reader(source).Execute()
        return SimpleITK.GetArrayFromImage(image).T, image

    def takes(self, image: Any) -> bool:
        return isinstance(image, SimpleITK.Image)

    def from_memory(self, image: Any) -> tuple[np.ndarray, Opened]:
        data = SimpleITK.GetArrayFromImage(image).T
        scalar = image.GetNumberOfComponentsPerPixel() == 1
        return data, Opened(data.shape, _affines(image), scalar, image)

    def owns(self, header: Any) -> bool:
        return isinstance(header, SimpleITK.Image)

    def first_volume(self, header: Any, shape: tuple[int, ...]) -> Any:
        return header[:, :, :, 0]

    def label_image(self, labels: np.ndarray, header: Any, affine: np.ndarray) -> Any:
        # a single slice may be a 2-D image, and trailing axes of length 1 are restored
        image = SimpleITK.GetImageFromArray(labels.reshape(header.GetSize()).T, isVector=False)
        image.CopyInformation(header)
        return image

    def save_labels(self, path: Path, labels: np.ndarray, header: Any) -> None:
        image = self.label_image(labels, header, np.eye(4))
        SimpleITK.WriteImage(image, str(path), useCompression=True)


def _reader(path: Path) -> Any:
    """Make a reader for the file. It names the format, because ITK knows no suffix in capitals."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    return reader


def _voxel_bytes(pixel: int) -> int:
    """Bytes of a type of voxels of ITK, whose name begins with the bits (``16-bit ...``)."""
    bits = SimpleITK.GetPixelIDValueAsString(pixel).partition("-bit")[0]
    return int(bits) // 8 if bits.isdecimal() else 8


def _check_text(path: Path) -> None:
    """Refuse a header that names a file elsewhere, or by which ITK would end the process.

    ITK reads whatever file the header names, and copies its lines to places of a fixed size.

    Raises:
        PosconError: it is one.
    """
    with path.open("rb") as file:
        text = file.read(LONGEST_HEADER)
    nrrd = path.suffix.lower() == ".nrrd"
    end = (_BLANK if nrrd else _LAST).search(text)
    lines = text[: None if end is None else end.end()].splitlines()
    for line in lines:
        if len(line) > _LONGEST_LINE and not (nrrd and _PAIR.match(line)):
            raise PosconError(
                f"{path}: a line of its header has {len(line)} bytes; is it damaged? Fetch it again"
            )
        stated = _ELSEWHERE.match(line)
        name = "LOCAL" if stated is None else stated[1].decode("utf-8", "replace").strip()
        if name != "LOCAL" and not is_plain(name):
            raise PosconError(
                f"{path}: its voxels are in {name[:80]!r}; poscon reads them from the file itself, "
                "or from one file beside it: write it so"
            )


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


def _affines(reader: Any) -> tuple[np.ndarray, ...]:
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
