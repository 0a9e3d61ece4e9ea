"""Labels in DICOM objects: segments (SEG) or contours (RTSTRUCT), on the grid of a scan."""

from dataclasses import dataclass
from pathlib import Path

from poscon.volumes.series import Fault, is_dicom

SUFFIXES = (".dcm", ".dicom")
"""Of DICOM objects that are found by their names, as label maps in a folder are."""


@dataclass(frozen=True)
class Drawing:
    """The structures of one or several DICOM objects, and the grid on which they are read.

    Attributes:
        files: the objects.
        names: the names of their structures, in the order of the objects. Each is listed once.
        shape: (X, Y, Z), of the scan.
        affine: (4, 4), voxel index to mm, RAS+, of the scan.
        fractional: whether one of them has fractions instead of yes or no.
        fault: why they cannot be read, or None.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    fractional: bool = False
    fault: Fault | None = None

    def __str__(self) -> str:
        return " and ".join(map(str, self.files))


LabelSource = Path | Drawing
"""Where labels are read from: a file, a folder with one mask per organ, or DICOM objects."""


def is_object(path: LabelSource) -> bool:
    """Whether a path is a file that is named as a DICOM object, and is one."""
    return (
        isinstance(path, Path)
        and path.suffix.lower() in SUFFIXES
        and path.is_file()
        and is_dicom(path)
    )


def objects_in(folder: Path) -> list[Path]:
    """The DICOM objects of a folder, sorted; hidden files and subfolders are left out."""
    shown = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return [path for path in shown if is_object(path)]


def files_of(source: LabelSource) -> tuple[Path, ...]:
    """The files, or the folder, of labels."""
    return source.files if isinstance(source, Drawing) else (source,)
