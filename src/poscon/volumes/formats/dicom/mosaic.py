"""Siemens' mosaic: one picture in which the slices of a volume lie side by side.

The slices fill the rows of a square grid of tiles. The private header says how many there are and
to which side they follow each other
(https://nipy.org/nibabel/dicom/dicom_mosaic.html).
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from poscon.errors import PosconError
from poscon.volumes.series import Piece


def is_mosaic(header: Dataset) -> bool:
    """Whether a file is a mosaic."""
    return "MOSAIC" in [str(word).upper() for word in header.get("ImageType") or ()]


def tiles(path: Path, header: Dataset) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Yield the slices of a mosaic with the attributes that a file of their own would have.

    Args:
        path: the file.
        header: its header.

    Raises:
        PosconError: the private header does not say how the slices lie.
    """
    count, normal = _count(header), np.array(_private(header, "SliceNormalVector"), float)
    if count is None or normal.shape != (3,):
        raise PosconError(
            f"{path}: a mosaic whose private header does not say how its slices lie; export it "
            "again with private elements"
        )
    across = math.ceil(math.sqrt(count))
    row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in header.PixelSpacing)
    # the stated place is that of a picture as large as the mosaic with the centre of a tile
    left = (header.Columns - header.Columns // across) / 2 * between_columns
    above = (header.Rows - header.Rows // across) / 2 * between_rows
    first = np.array(header.ImagePositionPatient, float) + row * left + column * above
    for number in range(count):
        tile = {
            "ImagePositionPatient": first + number * normal * float(header.SpacingBetweenSlices),
            "ImageOrientationPatient": header.ImageOrientationPatient,
            "PixelSpacing": header.PixelSpacing,
        }
        yield Piece(path, number, across), tile


def _count(header: Dataset) -> int | None:
    """The number of slices, or None if it is not stated."""
    stated = _private(header, "NumberOfImagesInMosaic")
    element = header.get((0x0019, 0x100A))
    if not stated and element is not None:
        stated = [element.value]
    return int(stated[0]) if stated else None


def _private(header: Dataset, name: str) -> list[Any]:
    """The values of an entry of Siemens' private header that are not empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls the module experimental
        from nibabel.nicom import csareader
    tags = (csareader.get_csa_header(header) or {}).get("tags", {})
    return [value for value in tags.get(name, {}).get("items", ()) if value not in (None, "")]
