"""Siemens' mosaic: one picture in which the slices of a volume lie side by side.

The slices fill the rows of a square grid of tiles. Private elements say how many there are and to
which side they follow each other: the header of the image, or else the protocol of the series
(https://nipy.org/nibabel/dicom/siemens_csa.html, .../dicom_mosaic.html).
"""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from poscon.errors import PosconError
from poscon.volumes.series import Piece

IMAGE, SERIES, COUNT = 0x00291010, 0x00291020, 0x0019100A
"""Private elements: header of the image, header of the series, number of slices."""
_AXES = ("Sag", "Cor", "Tra")


def is_mosaic(header: Dataset) -> bool:
    """Whether a file is a mosaic."""
    return "MOSAIC" in [str(word).upper() for word in header.get("ImageType") or ()]


def tiles(path: Path, header: Dataset) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Yield the slices of a mosaic with the attributes that a file of their own would have.

    Args:
        path: the file.
        header: its header.

    Raises:
        PosconError: the private elements do not say how the slices lie.
    """
    image, protocol = _image_header(header), _protocol(header)
    count = _count(header, image, protocol)
    if count is None:
        raise _unknown(path)
    across = math.ceil(math.sqrt(count))
    row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in header.PixelSpacing)
    rows, columns = header.Rows // across, header.Columns // across
    # the stated place is that of a picture as large as the mosaic with the centre of a tile
    left, above = (header.Columns - columns) / 2, (header.Rows - rows) / 2
    first = np.array(header.ImagePositionPatient, float)
    first = first + row * left * between_columns + column * above * between_rows
    centre = first + row * columns / 2 * between_columns + column * rows / 2 * between_rows
    normal = np.cross(row, column)
    side = _side(normal, centre, count, image, protocol)
    if side == 0:
        raise _unknown(path)
    for number in range(count):
        step = normal * side * float(header.SpacingBetweenSlices)
        tile = {
            "ImagePositionPatient": first + number * step,
            "ImageOrientationPatient": header.ImageOrientationPatient,
            "PixelSpacing": header.PixelSpacing,
        }
        yield Piece(path, number, across), tile


def _unknown(path: Path) -> PosconError:
    return PosconError(
        f"{path}: a mosaic whose private header does not say how its slices lie; export it again "
        "with private elements"
    )


def _count(header: Dataset, image: dict[str, list[Any]], protocol: dict[str, float]) -> int | None:
    """The number of slices, or None if it is not stated."""
    element = header.get(COUNT)
    stated = (
        *image.get("NumberOfImagesInMosaic", ()),
        *([] if element is None else [element.value]),
        *([protocol["lSize"]] if "lSize" in protocol else []),
    )
    return int(stated[0]) if stated else None


def _side(
    normal: np.ndarray,
    centre: np.ndarray,
    count: int,
    image: dict[str, list[Any]],
    protocol: dict[str, float],
) -> float:
    """Whether the slices follow the normal (1) or run against it (-1); 0 if it is not said.

    The protocol has the centres of the slices, but may count them the other way than the tiles:
    the first tile is one of the ends.

    Args:
        normal: of the tiles, LPS+.
        centre: of the first tile in mm, LPS+.
        count: number of slices.
        image: what the header of the image says.
        protocol: what the protocol of the series says.
    """
    if "lSize" in protocol:
        ends = [
            float(normal @ [protocol.get(f"asSlice[{n}].sPosition.d{axis}", 0) for axis in _AXES])
            for n in (0, count - 1)
        ]
        near, far = sorted(ends, key=lambda end: abs(end - float(normal @ centre)))
        return float(np.sign(far - near))
    stated = image.get("SliceNormalVector", ())
    return float(np.sign(normal @ np.array(stated, float))) if len(stated) == 3 else 0.0


def _image_header(header: Dataset) -> dict[str, list[Any]]:
    """The entries of Siemens' header of the image, each with its values that are not empty."""
    element = header.get(IMAGE)
    if element is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls the module experimental
        from nibabel.nicom import csareader
    return {
        name: [value for value in entry["items"] if value not in (None, "")]
        for name, entry in csareader.read(element.value)["tags"].items()
    }


def _protocol(header: Dataset) -> dict[str, float]:
    """The entries of Siemens' protocol that say where the slices lie; 0 is left out there."""
    element = header.get(SERIES)
    text = b"" if element is None else bytes(element.value)
    found = re.findall(
        rb"sSliceArray\.(lSize|asSlice\[\d+\]\.sPosition\.d\w+)\s*=\s*([-+.\de]+)", text
    )
    return {name.decode(): float(value) for name, value in found}
