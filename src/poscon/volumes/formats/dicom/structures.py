"""RTSTRUCT: closed contours in the planes of a series, by region of interest (ROI).

Terms are those of PS3.3 C.8.8.5 and C.8.8.6
(https://dicom.nema.org/medical/dicom/current/output/html/part03.html).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from poscon.errors import PosconError
from poscon.volumes.formats.dicom.contours import inside_contours
from poscon.volumes.formats.dicom.segments import Voxels

REFERENCES = ("ReferencedFrameOfReferenceSequence", "ROIContourSequence")
"""Where images are named, the best place first."""
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""The kinds of contours that bound an area. Several in a plane count by the even-odd rule."""
ON_PLANE = 0.1
"""A point lies in a slice if it is this close to its plane, in distances between slices."""
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def names(header: Dataset) -> dict[int, str]:
    """The name of each region that has a contour, by its number."""
    drawn = {int(item.ReferencedROINumber) for item in _drawn(header)}
    return {
        int(item.ROINumber): str(item.get("ROIName") or "").strip() or f"ROI_{item.ROINumber}"
        for item in header.get("StructureSetROISequence") or ()
        if int(item.ROINumber) in drawn
    }


def places(header: Dataset) -> frozenset[str]:
    """What tells the coordinate systems apart in which the regions lie."""
    stated = [item.get("FrameOfReferenceUID") for item in header.get(REFERENCES[0]) or ()]
    stated += [
        item.get("ReferencedFrameOfReferenceUID")
        for item in header.get("StructureSetROISequence") or ()
    ]
    return frozenset(str(uid) for uid in stated if uid)


def check(path: Path, header: Dataset, shape: tuple[int, int, int], affine: np.ndarray) -> None:
    """Refuse an object that has no contour.

    Whether contours lie in the planes of the grid is looked at when they are read, because a
    region that is not chosen may lie elsewhere.

    Args:
        path: the file, for messages.
        header: its content.
        shape: (X, Y, Z), of the grid.
        affine: (4, 4), voxel index to mm, RAS+, of the grid.

    Raises:
        PosconError: it has none.
    """
    if not names(header):
        raise PosconError(f"{path}: an RTSTRUCT without a contour; move it away")


def voxels(
    path: Path,
    stored: Dataset,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    chosen: Collection[str],
) -> Iterator[tuple[str, Voxels]]:
    """Yield the voxels of regions, slice by slice, with the name of their region.

    A voxel belongs to a region if its centre does. Slices without a contour are background.

    Args:
        path: the file, for messages.
        stored: the object.
        shape: (X, Y, Z), of the grid.
        affine: (4, 4), voxel index to mm, RAS+, of the grid.
        chosen: names of the regions; others are left out.

    Raises:
        PosconError: a contour is not closed, or lies in no slice.
    """
    named, to_voxels = names(stored), np.linalg.inv(affine) @ _RAS_FROM_LPS
    for item in _drawn(stored):
        name = named.get(int(item.ReferencedROINumber))
        if name is None or name not in chosen:
            continue
        in_slices: dict[int, list[np.ndarray]] = defaultdict(list)
        for contour in item.ContourSequence:
            where = f"{path}: a contour of {name!r}"
            kind = str(contour.get("ContourGeometricType"))
            if kind not in CLOSED:
                raise PosconError(
                    f"{where} is of the type {kind}, poscon reads {CLOSED[0]}; choose other "
                    "structures with --labels"
                )
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            found = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            number = _slice(found[:, 2], shape[2], where)
            in_slices[number].append(found[:, :2])
        for number, contours in in_slices.items():
            columns, rows = np.nonzero(inside_contours(contours, shape[:2]))
            yield name, (columns, rows, np.full_like(rows, number))


def _drawn(header: Dataset) -> list[Dataset]:
    """The regions that have contours."""
    return [item for item in header.get("ROIContourSequence") or () if item.get("ContourSequence")]


def _slice(heights: np.ndarray, slices: int, where: str) -> int:
    """The number of the slice in which points lie.

    Args:
        heights: of the points, in slices.
        slices: how many there are.
        where: the file and the region, for the message.

    Raises:
        PosconError: they lie in none.
    """
    number = int(np.rint(np.median(heights)))
    away = float(np.abs(heights - number).max())
    if away > ON_PLANE:
        raise PosconError(
            f"{where} lies in no slice of the series, up to {away:.2g} of the distance of slices "
            f"from slice {number + 1}; draw on the series itself"
        )
    if not 0 <= number < slices:
        raise PosconError(
            f"{where} lies outside the {slices} slices of the series, where number {number + 1} "
            "would be; is the series complete?"
        )
    return number
