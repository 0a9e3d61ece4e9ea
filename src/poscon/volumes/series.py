"""A scan that lies in many files: one volume, or one time series, of a DICOM series."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NewType

Fault = NewType("Fault", str)
"""Why a series cannot be read: the part of a message after the series."""

OnGap = Literal["refuse", "interpolate", "split"]
"""What to do where slices of a DICOM series are missing, or lie at uneven distances."""


@dataclass(frozen=True)
class Piece:
    """One slice in a file.

    Attributes:
        file: the file.
        index: number of the slice in the file, from 0.
        tiles: tiles in a row of a mosaic, whose tile ``index`` the slice is; None: no mosaic.
        slope, intercept: value = slope * stored number + intercept.
        white: where the stored numbers run from white to black, what they are subtracted from so
            that they run from black to white; else None.
        padding: first and last stored number of pixels outside the field of view, or None.
    """

    file: Path
    index: int = 0
    tiles: int | None = None
    slope: float = 1.0
    intercept: float = 0.0
    white: int | None = None
    padding: tuple[int, int] | None = None


@dataclass(frozen=True)
class Mix:
    """A slice that lies between two slices of a stack.

    Attributes:
        below, above: numbers of the two slices, from 0.
        weight: share of the upper one, 0 to 1.
    """

    below: int
    above: int
    weight: float


@dataclass(frozen=True)
class Series:
    """A stack of slices that are read from DICOM files.

    Attributes:
        place: the first file and the number of the series, for messages.
        modality: ``"CT"`` or ``"MR"``.
        shape: (X, Y, Z) or (X, Y, Z, frames). X runs along the rows of the pictures, Y along their
            columns, Z along the normal.
        affine: (4, 4), voxel index to mm, RAS+.
        pieces: the slices of every frame, one frame after another.
        mixes: how the slices of the volume are made of those of the files; empty: they are those.
        fault: why the series cannot be read, or None.
        name: name of the case in what is written. It says nothing of the patient.
    """

    place: str
    modality: str
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    mixes: tuple[Mix, ...] = ()
    fault: Fault | None = None
    name: str = "series"

    def __str__(self) -> str:
        return self.place

    @property
    def files(self) -> tuple[Path, ...]:
        """The files. Each is listed once."""
        return tuple(dict.fromkeys(piece.file for piece in self.pieces))

    def fingerprint(self, root: Path) -> str:
        """A hash that tells whether a series is still the same, without the names of its files.

        Args:
            root: a folder above the files.
        """
        content = [f"{self.shape} {self.affine} {self.mixes}"]
        for file in self.files:
            status = file.stat()
            content.append(f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}")
        text = "\n".join(content).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()


Source = Path | Series
"""Where a scan is read from: a file, or a DICOM series."""


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, by its first bytes.

    Files of before 2000 have no preamble. They begin with an element of group 2 or 8.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    return start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00" and len(start) == 132
