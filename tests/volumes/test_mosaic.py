"""Siemens' mosaic: tiles become slices, in the order and at the places that are stated."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_examples import write_image

from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset
from poscon.volumes.scan import Scan, read_scan

SLICES, ROWS, COLUMNS = 5, 4, 6
SPACING = 3.0
BETWEEN_ROWS, BETWEEN_COLUMNS = 0.75, 1.25
FIRST = np.array([-10.0, -20.0, 30.0])
"""Place of the first pixel of the first tile, LPS+."""


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (SLICES, ROWS, COLUMNS)).astype(np.int16)


def write_mosaic(folder: Path, **private: Any) -> None:
    """Five slices in a square of nine tiles."""
    picture = np.zeros((3 * ROWS, 3 * COLUMNS), np.int16)
    for number, pixels in enumerate(volume()):
        down, right = divmod(number, 3)
        rows = slice(down * ROWS, (down + 1) * ROWS)
        picture[rows, right * COLUMNS : (right + 1) * COLUMNS] = pixels
    # what is stated is the corner of a picture of this size around the centre of the tile
    corner = FIRST - [COLUMNS * BETWEEN_COLUMNS, ROWS * BETWEEN_ROWS, 0]
    write_image(
        folder / "mosaic.ima",
        picture,
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        ImagePositionPatient=[float(mm) for mm in corner],
        SpacingBetweenSlices=SPACING,
        **private,
    )


def protocol(*, first: int) -> bytes:
    """A protocol in which the tile is the slice with the number ``first``, 0 or the last."""
    centre = FIRST + np.array([COLUMNS / 2 * BETWEEN_COLUMNS, ROWS / 2 * BETWEEN_ROWS, 0])
    lines = ["SV10", f"sSliceArray.lSize    = {SLICES}"]
    for number in range(SLICES):
        x, y, z = centre + np.array([0, 0, (number - first) * SPACING])
        for axis, mm in (("Sag", x), ("Cor", y), ("Tra", z)):
            lines.append(f"sSliceArray.asSlice[{number}].sPosition.d{axis}  = {mm}")
    return "\n".join(lines).encode() + b"\n"


def image_header(normal: tuple[float, float, float]) -> bytes:
    """Siemens' header of an image, in its second format."""

    def entry(name: str, kind: str, values: list[str]) -> bytes:
        text = struct.pack(
            "<64si4s3i", name.encode(), len(values), kind.encode(), 0, len(values), 0
        )
        for value in values:
            padded = value.encode().ljust(12, b"\0")
            text += struct.pack("<4i", 12, 12, 77, 12) + padded
        return text

    entries = [
        entry("NumberOfImagesInMosaic", "US", [str(SLICES)]),
        entry("SliceNormalVector", "FD", [f"{value:.6f}" for value in normal]),
    ]
    return b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), 77) + b"".join(entries)


def only(folder: Path) -> Scan:
    (case,) = read_dataset(folder, "dicom").cases
    return read_scan(case.image)


@pytest.mark.parametrize(
    ("private", "up"),
    [
        ({"x00291020": protocol(first=0)}, True),
        ({"x00291020": protocol(first=SLICES - 1)}, False),
        ({"x00291010": image_header((0, 0, 1))}, True),
        ({"x00291010": image_header((0, 0, -1))}, False),
    ],
    ids=["protocol, up", "protocol, down", "image, up", "image, down"],
)
def test_tiles_lie_where_they_are_said_to(
    tmp_path: Path, private: dict[str, bytes], up: bool
) -> None:
    write_mosaic(tmp_path, **private)
    scan = only(tmp_path)
    tiles = volume() if up else volume()[::-1]
    np.testing.assert_array_equal(scan.data, tiles.transpose(2, 1, 0))
    lowest = FIRST - [0, 0, 0 if up else (SLICES - 1) * SPACING]
    np.testing.assert_allclose(scan.affine[:3, 3], lowest * [-1, -1, 1], atol=1e-6)
    np.testing.assert_allclose(scan.spacing, (BETWEEN_COLUMNS, BETWEEN_ROWS, SPACING))


def test_a_mosaic_that_does_not_say_how_its_slices_lie(tmp_path: Path) -> None:
    write_mosaic(tmp_path)
    with pytest.raises(PosconError, match="does not say how its slices lie; export it again"):
        only(tmp_path)
