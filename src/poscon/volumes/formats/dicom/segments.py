"""DICOM-SEG: a picture for each segment and slice, or pictures with the numbers of segments.

A frame is put where its position says. Slices without a frame are background. Terms are those of
PS3.3 A.51 and C.8.20 (https://dicom.nema.org/medical/dicom/current/output/html/part03.html).
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from poscon.errors import PosconError
from poscon.volumes.affine import SAME_PLACE, spacing_of
from poscon.volumes.formats.dicom.headers import flat_frames

REFERENCES = ("ReferencedSeriesSequence", "PerFrameFunctionalGroupsSequence")
"""Where images are named, the best place first."""
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Voxels = tuple[np.ndarray, ...]
"""Three arrays: the X, Y and Z indices of voxels."""


def names(header: Dataset) -> dict[int, str]:
    """The label of each segment, by its number. The background of a label map is none."""
    background = _background(header)
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel") or "").strip()
        or f"segment_{item.SegmentNumber}"
        for item in header.get("SegmentSequence") or ()
        if int(item.SegmentNumber) not in background
    }


def places(header: Dataset) -> frozenset[str]:
    """What tells the coordinate system apart in which the segments lie."""
    return frozenset([str(header.FrameOfReferenceUID)] if "FrameOfReferenceUID" in header else [])


def check(path: Path, header: Dataset, shape: tuple[int, int, int], affine: np.ndarray) -> None:
    """Refuse an object with a frame whose pixels are no voxels of a grid.

    Args:
        path: the file, for messages.
        header: its header.
        shape: (X, Y, Z), of the grid.
        affine: (4, 4), voxel index to mm, RAS+, of the grid.

    Raises:
        PosconError: it is one, or it has no segment or frame.
    """
    if not names(header):
        raise PosconError(f"{path}: a SEG without a segment; move it away")
    if not header.get("PerFrameFunctionalGroupsSequence"):
        raise PosconError(f"{path}: a SEG that does not say where its frames lie; export it again")
    for number, frame in enumerate(flat_frames(header), start=1):
        _placed(path, number, frame, header, affine)


def voxels(
    path: Path,
    stored: Dataset,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    chosen: Collection[str],
) -> Iterator[tuple[str, Voxels]]:
    """Yield the voxels of segments, frame by frame, with the name of their segment.

    In an object with fractions, a voxel belongs to a segment if the fraction is more than one half.

    Args:
        path: the file, for messages.
        stored: the object.
        shape: (X, Y, Z), of the grid.
        affine: (4, 4), voxel index to mm, RAS+, of the grid.
        chosen: names of the segments; others are left out.

    Raises:
        PosconError: a frame is not on the grid, or has a number of no segment.
    """
    named, kind = names(stored), stored.get("SegmentationType")
    limit = int(stored.get("MaximumFractionalValue") or 1) / 2 if kind == "FRACTIONAL" else 0
    frames = zip(flat_frames(stored), _pictures(stored), strict=True)
    for number, (frame, pixels) in enumerate(frames, start=1):
        if kind == "LABELMAP":
            found = set(np.unique(pixels).tolist()) - _background(stored)
            parts = {segment: pixels == segment for segment in sorted(found)}
        else:
            parts = {int(frame["ReferencedSegmentNumber"]): pixels > limit}
        for segment, inside in parts.items():
            if segment not in named:
                raise PosconError(
                    f"{path}: frame {number} has the segment {segment}, which the file does not "
                    "describe; export it again"
                )
            if named[segment] in chosen and inside.any():
                turn = _placed(path, number, frame, stored, affine)
                yield named[segment], _indices(path, number, turn, inside, shape)


def _pictures(stored: Dataset) -> Iterator[np.ndarray]:
    """Yield (rows, columns) of each frame.

    Frames of single bits follow each other without a gap, so most do not begin with a byte. pydicom
    refuses these one by one, and all at once they need eight times their space.
    """
    if stored.BitsAllocated > 1 or stored.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(stored)
        return
    size, packed = stored.Rows * stored.Columns, np.frombuffer(stored.PixelData, np.uint8)
    for start in range(0, int(stored.NumberOfFrames) * size, size):
        bits = np.unpackbits(packed[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(stored.Rows, stored.Columns)


def _background(header: Dataset) -> set[int]:
    """The numbers of a label map that mean no segment."""
    if header.get("SegmentationType") != "LABELMAP":
        return set()
    return {0, int(header.get("PixelPaddingValue") or 0)}


def _placed(
    path: Path, number: int, frame: dict[str, Any], header: Dataset, affine: np.ndarray
) -> np.ndarray:
    """How column and row of a frame become indices of voxels: (3, 3) whole numbers.

    The third column is the voxel of the first pixel.

    Raises:
        PosconError: the pixels of the frame are no voxels of the grid.
    """
    missing = [name for name in _NEEDED if name not in frame]
    if missing:
        raise PosconError(
            f"{path}: frame {number} does not say its {missing[0]}, so nobody knows where it lies; "
            "export it again"
        )
    row, column = np.array(frame["ImageOrientationPatient"], float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in frame["PixelSpacing"])
    pixel = np.zeros((4, 3))
    pixel[:3, 0] = row / np.linalg.norm(row) * between_columns
    pixel[:3, 1] = column / np.linalg.norm(column) * between_rows
    pixel[:, 2] = [*np.array(frame["ImagePositionPatient"], float), 1.0]
    exact = (np.linalg.inv(affine) @ _RAS_FROM_LPS @ pixel)[:3]
    whole = np.rint(exact)
    corners = np.array([[c, r, 1] for c in (0, header.Columns - 1) for r in (0, header.Rows - 1)])
    off = float(np.linalg.norm(affine[:3, :3] @ (exact - whole) @ corners.T, axis=0).max())
    steps = np.abs(whole[:, :2])
    one_by_one = (steps.sum(axis=0) == 1).all() and (steps.sum(axis=1) <= 1).all()
    if not one_by_one or off > SAME_PLACE * min(spacing_of(affine)):
        far = f"up to {off:.3g} mm beside them" if one_by_one else "of another size or direction"
        raise PosconError(
            f"{path}: its pixels are not those of the series (frame {number}: {far}); draw on the "
            "series itself"
        )
    return whole.astype(np.int64)


_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def _indices(
    path: Path, number: int, turn: np.ndarray, inside: np.ndarray, shape: tuple[int, int, int]
) -> Voxels:
    """The indices of the voxels that the pixels of a frame are.

    Raises:
        PosconError: some lie outside the grid.
    """
    rows, columns = np.nonzero(inside)
    found = turn @ np.stack([columns, rows, np.ones_like(rows)])
    outside = ((found < 0) | (found >= np.array(shape)[:, None])).any(axis=0)
    if outside.any():
        raise PosconError(
            f"{path}: {int(outside.sum())} pixels of frame {number} lie outside the series; is the "
            "series complete?"
        )
    return tuple(found)
