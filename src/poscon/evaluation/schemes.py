"""What the values of predictions and of references mean."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.evaluation.pairs import Pair
from poscon.volumes.affine import Spacing
from poscon.volumes.case import LabelScheme, discovered_scheme, whole_values
from poscon.volumes.drawing import Drawing, LabelSource
from poscon.volumes.label_maps import drawn_scheme
from poscon.volumes.layouts.dataset_json import FILE, labels_of_description, read_description
from poscon.volumes.layouts.labels_json import read_labels_file


def folder_of(place: Path) -> Path:
    """The folder of label maps: the place itself, or that of a file."""
    return place if place.is_dir() else place.parent


def choose_schemes(
    predictions: Path,
    references: Path,
    pairs: Sequence[Pair],
    *,
    declared: LabelScheme | None,
    expected: LabelScheme | None,
    ignore_label: int | None,
    spacing: Spacing | None,
    failed: dict[str, str],
) -> tuple[LabelScheme, LabelScheme]:
    """What the values of predictions and of references mean; both have the same classes.

    Args:
        predictions: a label map, or a folder of them.
        references: the place of the references.
        pairs: each prediction with its reference.
        declared: what the references' values mean, as the user says; or None.
        expected: the same as the data set says; or None.
        ignore_label: value of the references' voxels that are not labelled, if the user says it.
        spacing: voxel size in mm along the files' axes, if the user states it.
        failed: dictionary that gets, by case, what is wrong with a pair that cannot be used.

    Returns:
        The scheme of the predictions and that of the references.

    Raises:
        PosconError: the classes differ, or the value of unlabelled voxels means something else.
    """
    own = stated_labels(folder_of(predictions)) or _named((p.path for p in pairs), predictions)
    if declared is None and expected is None:
        expected = stated_labels(folder_of(references)) or _named(
            (pair.reference.path for pair in pairs), references
        )
    stated = [s.ignore for s in (expected, own) if s is not None and s.ignore is not None]
    ignore = ignore_label if ignore_label is not None else next(iter(stated), None)
    # a labels.json may say nothing but the value of what is not labelled
    declared, expected, own = (s if s and s.classes else None for s in (declared, expected, own))
    of_references = declared or expected or own or _discovered(pairs, spacing, failed, ignore)
    of_predictions = replace(own or of_references, ignore=None)  # a prediction has no gaps
    if ignore is not None:
        where = f"{references}: label 'ignore'" if ignore_label is None else "--ignore-label"
        of_references = of_references.with_ignore(ignore, where=where)
    if set(of_predictions.names) != set(of_references.names):
        raise PosconError(
            f"{predictions}: the predictions' classes ({', '.join(of_predictions.names)}) are "
            f"not the references' ({', '.join(of_references.names)}); say with --labels what the "
            "references' values mean, using the predictions' names"
        )
    return of_predictions, of_references


def _named(label_maps: Iterable[LabelSource], where: Path) -> LabelScheme | None:
    """A class for each name in DICOM objects; None if there is none, or a label map of values."""
    paths = list(label_maps)
    drawings = [path for path in paths if isinstance(path, Drawing)]
    return drawn_scheme(drawings, where=str(where)) if len(drawings) == len(paths) else None


def stated_labels(folder: Path) -> LabelScheme | None:
    """Read from a folder of label maps what their values mean; None if it does not say.

    ``poscon predict`` writes ``labels.json``. nnU-Net copies ``dataset.json`` beside its
    predictions and has it above its ``labelsTr`` and ``labelsTs``.
    """
    if scheme := read_labels_file(folder):
        return scheme
    above = folder.parent if folder.name in ("labelsTr", "labelsTs") else folder
    for root in (folder, above):
        if (root / FILE).is_file():
            return labels_of_description(root, read_description(root))
    return None


def _discovered(
    pairs: Sequence[Pair], spacing: Spacing | None, failed: dict[str, str], ignore: int | None
) -> LabelScheme:
    """Make each value except 0 that occurs in any of the files a class.

    Args:
        pairs: the files.
        spacing: voxel size in mm along the files' axes, if the user states it.
        failed: dictionary that gets, by case, what is wrong with a pair that cannot be used.
        ignore: value of voxels that are not labelled, which is no class.

    Raises:
        PosconError: no pair can be used, a file has too many values, or all files are empty.
    """
    values: set[int] = set()
    for pair in pairs:
        try:
            present = {
                scan.path: whole_values(np.unique(scan.data), where=str(scan.path))
                for scan in pair.read(None, spacing)
            }
        except PosconError as error:
            failed[pair.id] = str(error)
            continue
        for path, found in present.items():
            values.update(int(v) for v in found)
            if len(values) > 256:
                raise PosconError(f"{path}: more than 255 label values; is this an image?")
    if len(failed) == len(pairs):
        raise PosconError(next(iter(failed.values())))
    values -= {ignore}
    if not values - {0}:
        raise PosconError("every prediction and every reference is empty (0 everywhere)")
    return discovered_scheme(values, where=str(pairs[0].path))
