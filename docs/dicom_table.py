"""Write the table of real DICOM series in ``docs/reference/dicom.md``.

    python docs/dicom_table.py ../shared/data/dicom

Each series is read by poscon and compared with the NIfTI file beside it, which another converter
made. Both are first brought to one orientation, by permuting and flipping axes.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from poscon.errors import PosconError
from poscon.volumes.affine import apart_mm
from poscon.volumes.formats.base import spatial_shape
from poscon.volumes.layouts import read_dataset
from poscon.volumes.scan import read_scan

PAGE = Path(__file__).resolve().parent / "reference" / "dicom.md"
BEGIN, END = "<!-- written by docs/dicom_table.py -->", "<!-- end -->"
EPSILON = float(np.finfo(np.float32).eps)
TRUTH = "_ground_truth.nii.gz"


@dataclass(frozen=True)
class Row:
    """What became of the series of a folder.

    Attributes:
        folder: the folder, relative to that of all series.
        shapes: the shape of each volume that was read.
        refused: the line with which the folder or its first series was refused, or None.
        differs: how it differs from the other converter's file; None: not at all, or no file.
        compared: whether there is such a file.
    """

    folder: str
    shapes: tuple[tuple[int, ...], ...]
    refused: str | None
    differs: str | None
    compared: bool


def series_folders(root: Path) -> Iterator[Path]:
    """The folders that hold files of DICOM and no further folder."""
    for folder in sorted(root.rglob("*")):
        inside = list(folder.iterdir()) if folder.is_dir() else []
        if inside and not any(entry.is_dir() or entry.suffix == ".gz" for entry in inside):
            yield folder


def look_at(root: Path, folder: Path) -> Row:
    """Read the series of a folder and compare it."""
    name = folder.relative_to(root).as_posix()
    truth = folder.with_name(f"{folder.name}{TRUTH}")
    shapes, refused, differs = [], None, None
    try:
        dataset = read_dataset(folder, "dicom")
        found = dict.fromkeys(case.image for case in dataset.cases)
        scans = [read_scan(series) for series in found]
        shapes = [scan.data.shape for scan in scans]
        if truth.is_file():
            differs = difference(scans[0].data, scans[0].affine, truth)
    except PosconError as error:
        refused = str(error).replace(f"{root}/", "")
    return Row(name, tuple(shapes), refused, differs, truth.is_file() and refused is None)


def difference(data: np.ndarray, affine: np.ndarray, truth: Path) -> str | None:
    """How a volume differs from that of a NIfTI file; None if it does not."""
    other = nib.load(truth)
    data, affine = upright(data, affine)
    values = np.asanyarray(other.dataobj)
    values, place = upright(values.reshape(spatial_shape(values.shape, truth)), other.affine)
    if data.shape != values.shape:
        return f"shape {values.shape}"
    found = []
    if (apart := apart_mm(data.shape, affine, place)) > 1e-3:
        found.append(f"{apart:.4g} mm away")
    # a value that was scaled has the precision of float32
    unequal = int((np.abs(data - values) > 2 * EPSILON * np.abs(values)).sum())
    if unequal:
        found.append(f"{unequal} of {data.size} voxels differ")
    return ", ".join(found) or None


def upright(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with axes that run to right, anterior and superior."""
    turn = nib.io_orientation(affine)
    back = nib.orientations.inv_ornt_aff(turn, data.shape[:3])
    return nib.apply_orientation(data, turn), affine @ back


def table(rows: Iterable[Row]) -> str:
    """The table, as text."""
    lines = [
        "| series | read | the other converter |",
        "|---|---|---|",
    ]
    for row in rows:
        read = ", ".join(" x ".join(map(str, shape)) for shape in row.shapes)
        other = row.differs or ("equal" if row.compared else "no file")
        if row.refused is not None:
            other = ""
        lines.append(f"| `{row.folder}` | {row.refused or read} | {other} |")
    return "\n".join(lines)


def page(text: str, root: Path) -> str:
    """The page with a new table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = (look_at(root, folder) for folder in series_folders(root))
    return f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}"


if __name__ == "__main__":
    text = page(PAGE.read_text(encoding="utf-8"), Path(sys.argv[1]).resolve())
    PAGE.write_text(text, encoding="utf-8")
