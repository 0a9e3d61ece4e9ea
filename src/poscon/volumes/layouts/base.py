"""The class of a data set layout, and the steps that most layouts share."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from poscon.errors import PosconError
from poscon.files import safe_name
from poscon.volumes.case import Case, Dataset
from poscon.volumes.drawing import SUFFIXES as OBJECTS
from poscon.volumes.drawing import files_of, objects_in
from poscon.volumes.layouts.tree import walk
from poscon.volumes.scan import read_shape, scan_stem, scan_suffix


@dataclass(frozen=True)
class Layout:
    """One way in which a data set's files are named and placed.

    Attributes:
        name: name for ``--layout``.
        description: one line for a listing, with the file names that are looked for.
        matches: function that says whether a folder looks like this layout. It opens no scan.
        read: function that reads a data set from a folder and the number or name of the image
            channel to use (None: not stated). Without cases it returns an empty data set.
        options: further keyword arguments that ``read`` takes.
    """

    name: str
    description: str
    matches: Callable[[Path], bool]
    read: Callable[..., Dataset]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """An image, its label map if there is one, and the parts of its name.

    Attributes:
        name: the named groups of the pattern that the file name matched.
    """

    image: Path
    label: Path | None
    name: dict[str, str]


def scan_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The scan files below a folder that fit a glob pattern, sorted.

    Hidden files and folders are left out, also the ``._*`` files that macOS writes. Links are
    followed. :func:`poscon.volumes.layouts.tree.passed_over` lists what is left out.

    Args:
        folder: the folder.
        pattern: a glob pattern; ``**/*`` for everything below the folder.
    """
    found = walk(folder).files if pattern == "**/*" else sorted(folder.glob(pattern))
    return [
        path
        for path in found
        if scan_suffix(path)
        and os.path.isfile(path)  # False if it cannot be reached
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def label_files(folder: Path) -> list[Path]:
    """The label maps in a folder: scan files and DICOM objects. Subfolders are not entered."""
    return sorted([*scan_files(folder), *objects_in(folder)])


def label_stem(path: Path) -> str:
    """The file name of a label map without its suffix, also that of a DICOM object."""
    return safe_name(path.stem) if path.suffix.lower() in OBJECTS else scan_stem(path)


def pair_files(files: Iterable[Path], pattern: re.Pattern[str]) -> list[Pair]:
    """Pair images with label maps by their names. Files that do not match are left out.

    Args:
        files: images and label maps.
        pattern: pattern for the whole file name without its format suffix. The group ``case`` is
            the part that an image and its label map share. The group ``label`` is not empty for
            a label map.
    """
    names = {path: found for path in files if (found := pattern.fullmatch(scan_stem(path)))}
    images = by_case((found["case"], path) for path, found in names.items() if not found["label"])
    labels = by_case((found["case"], path) for path, found in names.items() if found["label"])
    refuse_orphans(images, labels)
    return [
        Pair(image, labels.get(case), names[image].groupdict()) for case, image in images.items()
    ]


def by_case(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Make a dictionary of files by case.

    Raises:
        PosconError: there are two files for one case.
    """
    table: dict[str, Path] = {}
    for case, path in files:
        if table.setdefault(case, path) != path:
            raise PosconError(
                f"two files for the case {case!r}: {table[case]} and {path}; rename or remove one"
            )
    return table


def refuse_orphans(images: Collection[str], labels: Mapping[str, Path]) -> None:
    """Refuse a label map without its image.

    Args:
        images: the cases with an image.
        labels: label maps by case.

    Raises:
        PosconError: there is one.
    """
    for case, label in labels.items():
        if case not in images:
            raise PosconError(
                f"{label}: a label map without its image (case {case!r}); "
                "add the image or remove the label map"
            )


def refuse_channel(channel: int | str | None, layout: str) -> None:
    """Refuse a channel that was asked for of a layout without channels.

    Raises:
        PosconError: one was.
    """
    if channel is not None:
        raise PosconError(
            f"channel {channel} was asked for, but layout {layout!r} has no channels; "
            "leave --channel out"
        )


def frames_of(case: Case) -> list[Case]:
    """As :func:`split_frames`, where a label map belongs to a 3-D image only.

    Raises:
        PosconError: the image is 4-D and has a label map.
    """
    frames = split_frames(case)
    if case.label is not None and len(frames) > 1:
        label = files_of(case.label)[0].name
        raise PosconError(
            f"{case.image}: 4-D with a label map ({label}); poscon cannot know which "
            "frames are labelled: write the labelled frames as 3-D files"
        )
    return frames


def split_frames(case: Case) -> list[Case]:
    """Make a case of each frame (``ID_frame01``, ...) of a 4-D image. A 3-D case stays as it is.

    The phase of a frame is its share of the series, which is taken for one whole cycle.

    An image that cannot be read stays one case, so that it does not stop the others of its folder.
    The commands say what is wrong with it when they read it.
    """
    try:
        shape = read_shape(case.image)
    except PosconError:
        return [case]
    if len(shape) < 4:
        return [case]
    width = max(2, len(str(shape[3])))
    names = [f"frame{number:0{width}d}" for number in range(1, shape[3] + 1)]
    return [
        replace(
            case,
            id=f"{case.id}_{name}",
            frame=name,
            frame_index=index,
            phase=index / len(names),
        )
        for index, name in enumerate(names)
    ]
