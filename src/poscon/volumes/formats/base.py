"""What every format offers, and the steps that all of them share."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from poscon.errors import PosconError
from poscon.memory import usable_memory

MOST_PACKED = 1032
"""No byte of a file that is packed by deflate holds more bytes (https://zlib.net/zlib_tech.html)."""


LONGEST_HEADER = 4 * 2**20
"""Bytes of the text at the beginning of a file in which its header is looked for."""
_DATA_FILE = re.compile(rb"^ElementDataFile\s*[=:]\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Opened:
    """The content of a header, before anything in it is checked.

    Attributes:
        shape: the shape that the header states, of any number of dimensions.
        affines: affines of the header, see :func:`poscon.volumes.affine.checked_affine`.
        scalar: whether a voxel has one number.
        header: the header, as an object of the format's library.
        voxel_bytes: about how many bytes a voxel takes while the file is read.
        stored_bytes: how many it takes in the file, unpacked.
    """

    shape: tuple[int, ...]
    affines: tuple[np.ndarray, ...]
    scalar: bool
    header: Any
    voxel_bytes: int = 4
    stored_bytes: int = 1


class Reader(Protocol):
    """Reads scans of one format."""

    def open(self, source: Any) -> Opened:
        """Read the header of a scan."""

    def voxels(self, source: Any, opened: Opened) -> tuple[np.ndarray, Any]:
        """Read the voxels of a file in its own axis order, and the header for its label maps."""


class Format(Reader, Protocol):
    """A format whose library also makes images: of a scan in memory, of a label map, in a file.

    ``header`` is an object of that library, from which it makes an image with the same geometry.
    """

    def takes(self, image: Any) -> bool:
        """Whether an image in memory is one of the format's library."""

    def from_memory(self, image: Any) -> tuple[np.ndarray, Opened]:
        """The voxels and the header of an image in memory."""

    def owns(self, header: Any) -> bool:
        """Whether a header is one of the format's library."""

    def first_volume(self, header: Any, shape: tuple[int, ...]) -> Any:
        """The header of the first volume, of shape (X, Y, Z), of a 4-D image."""

    def label_image(self, labels: np.ndarray, header: Any, affine: np.ndarray) -> Any:
        """An image of a label map that lies where the image with this header and affine does."""

    def save_labels(self, path: Path, labels: np.ndarray, header: Any) -> None:
        """Write a label map that lies where the image with this header does."""


def spatial_shape(shape: tuple[int, ...], where: object) -> tuple[int, ...]:
    """Remove trailing axes of length 1. A single slice stays a 3-D volume.

    Args:
        shape: shape of a file or an array.
        where: the file, for the message.

    Raises:
        PosconError: it is neither 3-D nor 4-D.
    """
    trimmed = list(shape)
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed.pop()
    while len(trimmed) < 3:
        trimmed.append(1)
    if len(trimmed) > 4 or min(trimmed) < 1 or len(shape) < 2:
        raise PosconError(f"{where}: shape {shape} is neither a 3-D volume nor a 4-D series")
    return tuple(int(n) for n in trimmed)


def check_scalar(opened: Opened, where: object) -> None:
    """Refuse an image whose voxels have several numbers.

    Args:
        opened: its header.
        where: the file, for the message.

    Raises:
        PosconError: they have.
    """
    if not opened.scalar:
        raise PosconError(
            f"{where}: colour, vector, complex or a list of volumes in each voxel; poscon reads "
            "one number per voxel, and frames or channels along a fourth axis"
        )


def check_size(opened: Opened, path: Path) -> None:
    """Refuse voxels that a file cannot hold, or that no memory holds, before they are read.

    Args:
        opened: its header.
        path: the file of the voxels.

    Raises:
        PosconError: they are too many.
    """
    voxels, size = math.prod(opened.shape), path.stat().st_size
    if voxels * opened.stored_bytes > MOST_PACKED * size:
        raise PosconError(
            f"{path}: its header states {voxels} voxels, which a file of {size} bytes cannot hold; "
            "is it truncated or damaged? Fetch it again"
        )
    check_memory(voxels * opened.voxel_bytes, path)


def check_memory(n_bytes: int, where: object) -> None:
    """Refuse voxels that need more memory than the process may use.

    Args:
        n_bytes: how much they need.
        where: the file, for the message.

    Raises:
        PosconError: they do.
    """
    usable = usable_memory()
    if n_bytes > usable:
        raise PosconError(
            f"{where}: its voxels need {n_bytes / 2**30:.3g} GiB of memory, and this process may "
            f"use {usable / 2**30:.3g} GiB; is its header right? Else use a larger machine"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of the format libraries on a broken file into one line that names it."""
    try:
        yield
    except PosconError:
        raise
    except Exception as error:  # of many kinds
        reason = _reason(error, path)
        raise PosconError(f"{path}: cannot be read ({reason}); {_advice(path, reason)}") from error


def voxel_file(path: Path) -> Path | None:
    """The file of the voxels that a .mhd header names, or None if it names none."""
    with path.open("rb") as file:
        found = _DATA_FILE.search(file.read(LONGEST_HEADER))
    name = "" if found is None else found[1].decode("utf-8", "replace")
    return None if name in ("", "LOCAL") or not is_plain(name) else path.parent / name


def is_plain(name: str) -> bool:
    """Whether a header names one file beside it by a name: no path, no list and no pattern."""
    return name != "LIST" and not re.search(r"[/\\%\0]|^\.*$|^(SKIP)?LIST\b", name)


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
    if (
        path.suffix.lower() == ".mhd"
        and (voxels := voxel_file(path))
        and not os.path.isfile(voxels)
    ):
        return f"its voxels should be in {voxels.name} beside it, which is missing"
    if "spacing" in reason or "direction" in reason or "determinant" in reason:
        return "correct its header"
    return "is it truncated or damaged? Fetch it again"
