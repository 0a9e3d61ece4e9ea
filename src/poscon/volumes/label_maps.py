"""Read label maps in each form: one file, a mask per organ, Slicer's segments, DICOM objects."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike

from poscon.errors import PosconError
from poscon.progress import progress_bar, say_lines
from poscon.volumes.affine import Spacing, same_place
from poscon.volumes.case import (
    IGNORE,
    MOST_CLASSES,
    LabelScheme,
    discovered_scheme,
    label_scheme,
    label_value,
    parse_labels,
    whole_values,
)
from poscon.volumes.drawing import Drawing, LabelSource, is_object
from poscon.volumes.scan import (
    Scan,
    ScanHeader,
    read_header,
    read_metadata,
    read_scan,
    scan_stem,
    scan_suffix,
)
from poscon.volumes.slabs import present_values, slabs, slowest_first

FEW_VALUES = 16
"""A volume with at most this many whole values is no scan. No scanner delivers 4 bits."""
MOST_VALUES = 256
SAME_AS_NEIGHBOUR = 0.5
"""A volume of up to ``MOST_VALUES`` values is a label map if at least this share of its foreground
voxels has the value of the next voxel. The share is 0.73 to 0.92 in label maps of five public data
sets, and 0.03 to 0.25 in their scans."""
_SAMPLE = 50_000  # so many voxels tell nearly every scan from a label map


def label_masks(folder: Path) -> dict[str, Path]:
    """The masks of a folder with one mask per organ, by the name of the organ."""
    return {
        scan_stem(path): path
        for path in sorted(folder.iterdir())
        if scan_suffix(path) and path.is_file() and not path.name.startswith(".")
    }


def mask_scheme(folders: Iterable[Path], *, where: str) -> LabelScheme | None:
    """A class for each organ of which some folder has a mask; None if there is none.

    The organs, sorted by name, have the values 1, 2, 3 and so on.

    Args:
        folders: folders with one mask per organ.
        where: name for an error message.

    Raises:
        PosconError: the name of a mask cannot be that of a class.
    """
    organs = sorted({organ for folder in folders for organ in label_masks(folder)})
    classes = ((organ, (value,)) for value, organ in enumerate(organs, start=1))
    return label_scheme(classes, where=where) if organs else None


def drawn_scheme(drawings: Iterable[Drawing], *, where: str) -> LabelScheme | None:
    """A class for each name of a structure in DICOM objects; None if there is none.

    The names have the values 1, 2, 3 and so on, in the order of the objects.

    Args:
        drawings: the structures.
        where: name for an error message.

    Raises:
        PosconError: a name cannot be that of a class.
    """
    names = dict.fromkeys(name for drawing in drawings for name in drawing.names)
    classes = ((name, (value,)) for value, name in enumerate(names, start=1))
    return label_scheme(classes, where=where) if names else None


def on_grid(path: LabelSource, shape: tuple[int, ...], affine: ArrayLike) -> LabelSource:
    """A DICOM object as it is to be read on the grid of a scan; anything else as it is.

    Args:
        path: the file, or what is on a grid already.
        shape: (X, Y, Z), of the scan.
        affine: (4, 4), voxel index to mm, RAS+, of the scan.
    """
    if isinstance(path, Drawing) or not is_object(path):
        return path
    from poscon.volumes.formats.dicom.objects import drawing_of  # few need pydicom

    return drawing_of(path, shape, np.asarray(affine))


def fraction_notes(label_maps: Mapping[str, LabelSource]) -> list[str]:
    """One line that says how fractions are read; none where no label map has fractions.

    Args:
        label_maps: by case.
    """
    names = [
        name for name, one in label_maps.items() if isinstance(one, Drawing) and one.fractional
    ]
    if not names:
        return []
    return [
        f"{len(names)} label map(s) have fractions ({', '.join(names)}): a voxel belongs to a "
        "segment if its fraction is more than one half."
    ]


def refuse_ignore_label(ignore_label: int | None, label_maps: Iterable[LabelSource]) -> None:
    """Refuse a value for "not labelled" where a label map has no values: masks, DICOM objects.

    Raises:
        PosconError: it has none.
    """
    label_maps = list(label_maps)
    drawing = next((path for path in label_maps if isinstance(path, Drawing)), None)
    if ignore_label is not None and drawing is not None:
        raise PosconError(
            f"{drawing}: --ignore-label has no effect on SEG and RTSTRUCT, which have no values; "
            "use --labelled-slices"
        )
    masks = next((path for path in label_maps if isinstance(path, Path) and path.is_dir()), None)
    if ignore_label is not None and masks is not None:
        raise PosconError(
            f"{masks}: --ignore-label has no effect on a folder with one mask per organ; use "
            "--labelled-slices"
        )


def read_label_header(path: LabelSource, *, spacing: Spacing | None = None) -> ScanHeader:
    """Read the header of a label map, as :func:`poscon.volumes.scan.read_header` does.

    For a folder with one mask per organ it is the header of the first mask. DICOM objects have that
    of their scan.

    Raises:
        PosconError: the header cannot be used, a folder has no mask, or DICOM objects do not lie on
            their scan.
    """
    if isinstance(path, Drawing):
        from poscon.volumes.formats.dicom.objects import read_drawing_header  # few need pydicom

        return read_drawing_header(path, spacing)
    return read_header(_first(path), spacing=spacing)


def read_labels(
    path: LabelSource,
    scheme: LabelScheme | None = None,
    *,
    spacing: Spacing | None = None,
) -> Scan:
    """Read a label map in any form.

    * One file: its values. nibabel stores whole floating point values as integers with a scale.
      They are read as the whole numbers that they were.
    * A file of 3D Slicer's segments (``.seg.nrrd``): each segment has the value that the scheme
      gives its name. The values in the file may differ from file to file.
    * A folder with one mask per organ: each mask has the value that the scheme gives its name.
      Masks that the scheme does not name are left out. Masks must not overlap.
    * DICOM objects: each structure has the value that the scheme gives its name. The others are
      left out. Structures must not overlap.

    Args:
        path: a file, a folder of masks, or DICOM objects.
        scheme: meaning of the values; None for a file whose values stay as they are.
        spacing: see :func:`poscon.volumes.scan.read_scan`.

    Returns:
        The label map. Its data are (X, Y, Z) or (X, Y, Z, frames).

    Raises:
        PosconError: the file cannot be read; a mask is missing, has more than one value, or
            overlaps another; a segment has no class; DICOM objects do not lie on their scan.
    """
    if isinstance(path, Drawing):
        from poscon.volumes.formats.dicom.objects import read_drawing  # few need pydicom

        if scheme is None:
            raise PosconError(
                f"{path}: its segments have names, but other label maps have values that nobody "
                "explains; name the classes with --labels"
            )
        return read_drawing(path, scheme, spacing)
    if path.is_dir():
        assert scheme is not None, "the names of masks mean nothing without a scheme"
        return _merged(path, scheme, spacing)
    scan = read_scan(path, spacing=spacing)
    data = _unscaled(scan)
    if scheme is not None and (segments := segment_values(path)):
        data = _by_segment(data, segments, scheme, path)
    return Scan(path, data, scan.affine, scan.header)


def segment_values(path: Path) -> dict[str, int]:
    """The value of each of 3D Slicer's segments in a ``.seg.nrrd`` file, by name.

    It is empty for any other file. See
    https://slicer.readthedocs.io/en/latest/user_guide/modules/segmentations.html

    Raises:
        PosconError: two segments have one name, or a value is no label value.
    """
    if scan_suffix(path) != ".nrrd":
        return {}
    stated = read_metadata(path)
    segments: dict[str, int] = {}
    for key, name in stated.items():
        if number := re.fullmatch(r"(Segment\d+_)Name", key):
            if name in segments:
                raise PosconError(f"{path}: two segments have the name {name!r}; rename one")
            value = stated.get(f"{number[1]}LabelValue", "1")
            segments[name] = label_value(value, where=f"{path}: segment {name!r}")
    return segments


def choose_scheme(
    stated: LabelScheme | None,
    labels: str | None,
    ignore_label: int | None,
    label_maps: Iterable[tuple[LabelSource, Spacing | None]],
    *,
    where: str,
) -> LabelScheme:
    """What the values of label maps mean: as the user says, else as they say, else as found.

    Args:
        stated: what the folder or its layout says. Without classes it says only ``ignore``.
        labels: what the user says, such as ``"1=RV,2=MYO"``, or None.
        ignore_label: value of voxels that are not labelled, if the user says it.
        label_maps: each file, with the stated voxel size in mm along its axes or None. They are
            read if nobody says what the values mean. Then each value except 0 is a class.
        where: the folder, for an error message.

    Raises:
        PosconError: the value of unlabelled voxels means something else, or is stated otherwise;
            or there are more classes than a store holds.
    """
    ignore = None if stated is None else stated.ignore
    if ignore_label is not None:
        if ignore not in (None, ignore_label):
            raise PosconError(
                f"{where}: --ignore-label {ignore_label}: the data set says itself that {ignore} "
                "is the label of what is not labelled; leave the option out"
            )
        ignore = ignore_label
    if labels is not None:
        scheme = parse_labels(labels)
    elif stated is not None and stated.classes:
        scheme = stated
    else:
        values = _values(label_maps, ignore) - {ignore}
        scheme = discovered_scheme(values, where=where)
        if IGNORE in values and len(values - {0}) > 1:
            say_lines(
                [
                    f"note: {where}: the value {IGNORE} is taken for a class; if it means "
                    f"'not labelled', say --ignore-label {IGNORE}"
                ]
            )
    if len(scheme.classes) > MOST_CLASSES:
        raise PosconError(
            f"{where}: {len(scheme.classes)} label values, a store holds {MOST_CLASSES} classes; "
            "is an image named like a label map?"
        )
    if ignore is None:
        return scheme
    origin = f"{where}: label 'ignore'" if ignore_label is None else "--ignore-label"
    return scheme.with_ignore(ignore, where=origin)


def _values(
    label_maps: Iterable[tuple[LabelSource, Spacing | None]], ignore: int | None
) -> set[int]:
    """Every value of label maps.

    Raises:
        PosconError: a file has a value that is no label value, nor the one to be ignored.
    """
    values: set[int] = set()
    todo = list(label_maps)
    with progress_bar() as progress:
        task = progress.add_task("reading label maps", total=len(todo), status="")
        for path, spacing in todo:
            present = present_values(read_labels(path, spacing=spacing).data)
            whole = whole_values(present, where=str(path)).tolist()
            values.update(v if v == ignore else label_value(v, where=str(path)) for v in whole)
            progress.advance(task)
    return values


def looks_like_label_map(volume: np.ndarray) -> bool:
    """Whether a volume has the values of a label map: whole, few, and equal over large regions.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, frames).
    """
    sample = volume.ravel(order="K")[:: max(1, volume.size // _SAMPLE)]
    if not _few_whole(sample) or not _few_whole(volume):
        return False
    few = len(present_values(volume)) <= FEW_VALUES
    return few or same_as_neighbour(volume) >= SAME_AS_NEIGHBOUR


def same_as_neighbour(volume: np.ndarray) -> float:
    """Share of the pairs of neighbouring voxels, not both 0, that have equal values, 0 to 1.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, frames). Pairs lie along the three axes of space.
    """
    equal = foreground = 0
    for frame in np.moveaxis(volume.reshape(*volume.shape[:3], -1), 3, 0):
        ordered = slowest_first(frame)
        for axis in range(3):
            one, next_one = (
                np.moveaxis(np.moveaxis(ordered, axis, 0)[ends], 0, axis)
                for ends in (slice(0, -1), slice(1, None))
            )
            for part in slabs(one.shape):
                here, there = one[part], next_one[part]
                inside = (here != 0) | (there != 0)
                foreground += int(inside.sum())
                equal += int((inside & (here == there)).sum())
    return equal / max(foreground, 1)


def _few_whole(volume: np.ndarray) -> bool:
    """Whether the values of an array of any shape are whole, few and not negative."""
    ordered = slowest_first(volume)
    found = np.zeros(0, np.float32)
    with np.errstate(over="ignore"):
        for part in slabs(ordered.shape):
            found = np.union1d(found, ordered[part].astype(np.float32))
            if len(found) > MOST_VALUES:
                return False
    return (
        len(found) <= MOST_VALUES
        and bool(np.isfinite(found).all())
        and bool((found == np.rint(found)).all())
        and found[0] >= 0
    )


def _first(path: Path) -> Path:
    if not path.is_dir():
        return path
    masks = label_masks(path)
    if not masks:
        raise PosconError(f"{path}: no mask in this folder")
    return next(iter(masks.values()))


def _merged(folder: Path, scheme: LabelScheme, spacing: Spacing | None) -> Scan:
    """Make one label map from a folder with one mask per organ."""
    masks = label_masks(folder)
    merged: Scan | None = None
    values = np.zeros(())
    for name, value in zip(scheme.names, scheme.values, strict=True):
        if name not in masks:
            raise PosconError(
                f"{folder}: no mask of {name!r}, which the label scheme has; add the mask (empty "
                "where the organ is not in the scan), or choose the classes with --labels"
            )
        mask = read_scan(masks[name], spacing=spacing)
        inside = _unscaled(mask) != 0
        found = present_values(mask.data)
        if not np.isfinite(found).all():
            raise PosconError(
                f"{mask.path}: has voxels that are no number (NaN or infinite); a mask has 0 and "
                "one other value"
            )
        if len(found) > 2 or (len(found) == 2 and found[0] != 0):
            raise PosconError(
                f"{mask.path}: {len(found)} values, but a mask has 0 and one other value"
            )
        if merged is None:
            merged, values = mask, np.zeros(mask.data.shape, np.int32)
        if inside.shape != values.shape or not same_place(inside.shape, merged.affine, mask.affine):
            raise PosconError(f"{mask.path}: does not lie where {merged.path.name} does")
        if (taken := values[inside]).any():
            other = scheme.names[scheme.values.index(int(taken.max()))]
            raise PosconError(
                f"{folder}: the masks {name!r} and {other!r} overlap in "
                f"{int((taken != 0).sum())} voxels; choose one of them with --labels, or correct "
                "them"
            )
        values[inside] = value
    assert merged is not None
    return Scan(folder, values, merged.affine, merged.header)


def _unscaled(scan: Scan) -> np.ndarray:
    """Recover whole label values from integers that were stored with a scale.

    The scale is the precision with which the values were stored. Values within half a step of
    whole numbers were these numbers.
    """
    header = scan.header
    if not isinstance(header, nib.Nifti1Header) or header.get_data_dtype().kind not in "iu":
        return scan.data
    slope, _ = header.get_slope_inter()
    if slope in (None, 0, 1) or abs(slope) > 0.1:
        return scan.data
    largest = max(abs(float(scan.data.min())), abs(float(scan.data.max())))
    rounding = 2 * float(np.finfo(np.float32).eps) * largest  # the scale is float32
    ordered = slowest_first(scan.data)
    for part in slabs(ordered.shape):
        apart = np.abs(ordered[part] - np.rint(ordered[part]))
        if not (apart <= 0.5 * abs(slope) + rounding).all():
            return scan.data
    return np.rint(scan.data)


def _by_segment(
    data: np.ndarray, segments: dict[str, int], scheme: LabelScheme, path: Path
) -> np.ndarray:
    """Replace the file's own values by those that the scheme gives to the names of segments."""
    unknown = [name for name in segments if name not in scheme.names]
    if len(unknown) == len(segments):  # the user or the layout names the values, not the segments
        return data
    if unknown:
        raise PosconError(
            f"{path}: the segment {unknown[0]!r} is none of the classes "
            f"({', '.join(scheme.names)}); rename it, or name it with --labels"
        )
    renamed = np.full(data.shape, -1, np.int64)
    renamed[data == 0] = 0
    for name, value in segments.items():
        renamed[data == value] = scheme.values[scheme.names.index(name)]
    if (renamed < 0).any():
        odd = data[renamed < 0].flat[0]
        raise PosconError(f"{path}: the value {odd:g} belongs to no segment of the file")
    return renamed
