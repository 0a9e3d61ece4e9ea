"""DICOM objects with structures, SEG and RTSTRUCT: whose they are, and where they lie on a grid.

What says which images an object belongs to stays in :class:`Object` and is never written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from poscon.errors import PosconError
from poscon.volumes.affine import Spacing, checked_affine, spacing_of
from poscon.volumes.case import LabelScheme
from poscon.volumes.drawing import Drawing
from poscon.volumes.formats.dicom import segments, structures
from poscon.volumes.formats.dicom.files import read_file
from poscon.volumes.formats.dicom.headers import check_name
from poscon.volumes.scan import Scan, ScanHeader
from poscon.volumes.series import is_dicom

_KINDS = {
    SegmentationStorage: segments,
    "1.2.840.10008.5.1.4.1.1.66.7": segments,  # label map segmentation, younger than pydicom
    RTStructureSetStorage: structures,
}


@dataclass(frozen=True)
class Object:
    """What an object says of itself.

    Attributes:
        file: the file.
        names: of its structures. Each is listed once.
        fractional: whether it has fractions instead of yes or no.
        instances: what tells the images apart that it was drawn on.
        series: what tells their series apart.
        places: what tells the coordinate systems apart in which it lies.
    """

    file: Path
    names: tuple[str, ...]
    fractional: bool
    instances: frozenset[str]
    series: frozenset[str]
    places: frozenset[str]


def read_object(path: Path) -> Object | None:
    """Read what an object says of itself; None if it is no SEG and no RTSTRUCT.

    Raises:
        PosconError: its header cannot be read.
    """
    with _readable(path):
        stated = read_file(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        kind = _KINDS.get(stated.get("SOPClassUID"))
        if kind is None:
            return None
        header = read_file(path, stop_before_pixels=True)
        found = (_references(header, name) for name in kind.REFERENCES)
        nothing = (frozenset[str](), frozenset[str]())
        instances, series = next((one for one in found if one[0] or one[1]), nothing)
        return Object(
            path,
            tuple(dict.fromkeys(kind.names(header).values())),
            header.get("SegmentationType") == "FRACTIONAL",
            instances,
            series,
            kind.places(header),
        )


def drawing_of(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> Drawing:
    """An object as it is to be read on a grid.

    Args:
        path: the file.
        shape: of the grid, (X, Y, Z) or (X, Y, Z, frames).
        affine: (4, 4), voxel index to mm, RAS+, of the grid.

    Raises:
        PosconError: it is no SEG and no RTSTRUCT, or its header cannot be read.
    """
    if not is_dicom(path):
        check_name(path)
    found = read_object(path)
    if found is None:
        raise PosconError(f"{path}: neither a SEG nor an RTSTRUCT; give one, or a label map")
    x, y, z = shape[:3]
    grid = tuple(map(tuple, np.asarray(affine, float).tolist()))
    return Drawing((path,), found.names, (x, y, z), grid, found.fractional)


def read_drawing_header(drawing: Drawing, spacing: Spacing | None = None) -> ScanHeader:
    """Check that structures lie on their grid, by headers alone.

    Args:
        drawing: the structures.
        spacing: the voxel size in mm that is stated for the scan, which replaces its own.

    Raises:
        PosconError: they do not, or a header cannot be read.
    """
    if drawing.fault is not None:
        raise PosconError(f"{drawing}: {drawing.fault}")
    own = np.array(drawing.affine)
    for path in drawing.files:
        with _readable(path):
            header = read_file(path, stop_before_pixels=True)
            _KINDS[header.SOPClassUID].check(path, header, drawing.shape, own)
    affine = checked_affine((own,), spacing, where=str(drawing))
    return ScanHeader(drawing.shape, spacing_of(affine), affine)


def read_drawing(drawing: Drawing, scheme: LabelScheme, spacing: Spacing | None = None) -> Scan:
    """Read structures as a label map. Those that the scheme does not name are left out.

    Args:
        drawing: the structures.
        scheme: the value of each name.
        spacing: the voxel size in mm that is stated for the scan, which replaces its own.

    Raises:
        PosconError: they do not lie on the grid, no structure is one of the classes, two of them
            overlap, or a file cannot be read.
    """
    placed = read_drawing_header(drawing, spacing)
    chosen = dict(zip(scheme.names, scheme.values, strict=True))
    if not chosen.keys() & set(drawing.names):
        raise PosconError(
            f"{drawing}: no segment of it ({', '.join(drawing.names)}) is one of the classes "
            f"({', '.join(scheme.names)}); name them with --labels as the file does"
        )
    own = np.array(drawing.affine)
    values = np.zeros(drawing.shape, np.int32)
    for path in drawing.files:
        with _readable(path):
            stored = read_file(path)
            pieces = _KINDS[stored.SOPClassUID].voxels(path, stored, drawing.shape, own, chosen)
            for name, voxels in pieces:
                taken = values[voxels]
                if (other := taken[(taken != 0) & (taken != chosen[name])]).size:
                    names = {value: name for name, value in chosen.items()}
                    raise PosconError(
                        f"{path}: the segments {names[int(other[0])]!r} and {name!r} overlap in "
                        f"{other.size} voxels or more; choose one of them with --labels, or "
                        "correct them"
                    )
                values[voxels] = chosen[name]
    return Scan(drawing.files[0], values, placed.affine, None)


def _references(header: Dataset, attribute: str) -> tuple[frozenset[str], frozenset[str]]:
    """The images and the series that a sequence names at any depth."""
    instances, series = set(), set()
    for item in header.get(attribute) or ():
        for element in item.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                instances.add(str(element.value))
            elif element.keyword == "SeriesInstanceUID":
                series.add(str(element.value))
    return frozenset(instances), frozenset(series)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of pydicom into one line. They are of many kinds and may quote the header."""
    try:
        yield
    except PosconError:
        raise
    except Exception as error:
        raise PosconError(
            f"{path}: cannot be read as SEG or RTSTRUCT ({type(error).__name__}); is it damaged? "
            "Fetch it again, or move it away"
        ) from error
