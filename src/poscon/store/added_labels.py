"""Label maps that are given to a prepared store: whose they are, and what their values mean."""

from collections.abc import Sequence
from pathlib import Path

from poscon.errors import PosconError
from poscon.files import safe_name
from poscon.predictions import PREDICTIONS_FILE
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.volumes.case import LabelScheme, label_scheme, parse_labels
from poscon.volumes.drawing import Drawing, LabelSource, files_of
from poscon.volumes.label_maps import (
    choose_scheme,
    drawn_scheme,
    label_masks,
    mask_scheme,
    on_grid,
    refuse_ignore_label,
)
from poscon.volumes.layouts.base import by_case, label_files, label_stem
from poscon.volumes.layouts.labels_json import read_labels_file, stated_scheme
from poscon.volumes.layouts.totalsegmentator import MASKS
from poscon.volumes.scan import scan_suffix

Found = Sequence[tuple[CaseRecord, LabelSource]]
"""Label maps, each with its case: a file, a folder with one mask per organ, or a DICOM object."""


def find_label_maps(store: Store, folder: Path) -> list[tuple[CaseRecord, LabelSource]]:
    """The label maps of a folder, each with its case.

    Args:
        store: that has the cases.
        folder: has ``CASE.nii.gz`` or ``CASE/ORGAN.nii.gz`` for each case, in any format. The masks
            may also be in ``CASE/segmentations``, as TotalSegmentator's data set has them.
            ``CASE.dcm`` is a SEG or an RTSTRUCT.

    Raises:
        PosconError: there is none, one is named like no case, a case has two, or they are
            predictions.
    """
    if (folder / PREDICTIONS_FILE).is_file():
        raise PosconError(
            f"{folder}: holds what poscon predict wrote ({PREDICTIONS_FILE}), not what a person "
            "drew; put the label maps that a person has corrected into a folder of their own"
        )
    cases = {case.id: case for case in store.cases}
    files = by_case((label_stem(path), path) for path in label_files(folder))
    of_masks = {
        name: path for name, path in _folders(folder).items() if name in cases or label_masks(path)
    }
    if not files and not of_masks:
        raise PosconError(f"{folder}: no label map in this folder")
    found = []
    for stem, path in (*files.items(), *of_masks.items()):
        # 3D Slicer names its segments so
        name = stem.removesuffix(".seg") if scan_suffix(path) == ".nrrd" else stem
        case = cases.get(stem) or cases.get(name)
        if case is None:
            raise PosconError(
                f"{path}: {store.path} has no case {name!r}; a label map has the name of its case, "
                f"and poscon inspect {store.path} lists them"
            )
        found.append((case, path))
    by_case((case.id, path) for case, path in found)
    return [
        (case, path if case.affine is None else on_grid(path, case.geometry.shape, case.affine))
        for case, path in found
    ]


def _folders(folder: Path) -> dict[str, Path]:
    """Where the masks of each case would be, by the name of the case's folder."""
    inside = (path for path in sorted(folder.iterdir()) if path.is_dir())
    return {
        safe_name(path.name): path / MASKS if (path / MASKS).is_dir() else path
        for path in inside
        if not path.name.startswith(".")
    }


def scheme_of_added(
    store: Store,
    folder: Path | None,
    found: Found,
    labels: str | None,
    ignore_label: int | None,
) -> LabelScheme:
    """What the values of the label maps mean, with the classes in the order of the store.

    Args:
        store: the store.
        folder: folder of the label maps; None: there are none.
        found: the label maps, each with its case.
        labels: as the user says it.
        ignore_label: as the user says it.

    Raises:
        PosconError: the classes are not those of the store, or there is none.
    """
    where = str(folder)
    classes = store.manifest.classes
    if folder is None:
        if not classes:
            raise PosconError(
                f"{store.path}: has no classes yet, so a range can be that of none; add label maps "
                "first"
            )
        return label_scheme(((c.name, c.values) for c in classes), where=str(store.path))
    refuse_ignore_label(ignore_label, (path for _, path in found))
    if not classes and not any(case.labelled for case in store.cases):
        files = [(path, case.stated_spacing) for case, path in found]
        stated = _stated(found) if labels is None else _beside(found)
        scheme = choose_scheme(stated, labels, ignore_label, files, where=where)
        if not scheme.classes:
            raise PosconError(
                f"{folder}: no label map has a structure, and nothing says which there are; draw "
                "them, or name them with --labels"
            )
        return scheme
    own = label_scheme(((c.name, c.values) for c in classes), where=str(store.path))
    beside = read_labels_file(folder)
    given = beside if labels is None else parse_labels(labels)
    if given is not None and given.classes and set(given.classes) != set(own.classes):
        ours, theirs = (_described(scheme) for scheme in (own, given))
        raise PosconError(
            f"{'--labels' if labels else folder}: the classes are {theirs}, but those of "
            f"{store.path} are {ours}; give the same, or prepare a new store"
        )
    if beside is not None and beside.ignore is not None:
        own = own.with_ignore(beside.ignore, where=f"{folder}: label 'ignore'")
    return choose_scheme(own, None, ignore_label, (), where=where)


def _stated(found: Found) -> LabelScheme | None:
    """What label maps say themselves: by ``labels.json``, or by the names of segments or masks.

    Raises:
        PosconError: some have names of masks, and others have values that nobody explains.
    """
    stated = _beside(found)
    if stated is not None and stated.classes:
        return stated
    masks = [path for _, path in found if isinstance(path, Path) and path.is_dir()]
    drawings = [path for _, path in found if isinstance(path, Drawing)]
    named: list[LabelSource] = [*masks, *drawings]
    if not named:
        return stated
    for _, path in found:
        if path not in named:
            raise PosconError(
                f"{path}: nothing says what its values mean, but {named[0]} has names of "
                "structures; name the classes with --labels"
            )
    if masks and drawings:
        raise PosconError(
            f"{masks[0]}: masks beside {drawings[0]}; name the classes of both with --labels"
        )
    where = str(files_of(named[0])[0].parent)
    return drawn_scheme(drawings, where=where) or mask_scheme(masks, where=where)


def _beside(found: Found) -> LabelScheme | None:
    """What ``labels.json``, or the names of Slicer's segments, say of the label maps."""
    return stated_scheme(file for _, path in found for file in files_of(path))


def _described(scheme: LabelScheme) -> str:
    """``1=RV,2=MYO``, as for ``--labels``; ``none``."""
    classes = (f"{'+'.join(map(str, c.values))}={c.name}" for c in scheme.classes)
    return ",".join(classes) or "none"
