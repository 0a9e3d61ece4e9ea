"""Label maps that are added to a prepared store, or taken out of it; its images stay as they are.

The manifest names the label map of each case. So the new label maps are written beside the earlier
ones, and the manifest that names them comes last. Before that the store is as it was, after that
it has all the new labels. The earlier label map of a case is kept until the next time, because a
training may be reading it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec.structs import asdict, replace

from poscon.errors import PosconError
from poscon.files import complete, printable, sweep
from poscon.store.manifest import (
    LABEL_FILE,
    SCHEMA_VERSION,
    CaseRecord,
    ClassRecord,
    write_case,
    write_manifest,
)
from poscon.store.preparation import class_stack, count_labels, refuse_other_grid
from poscon.store.resample import resample_classes
from poscon.store.slices import LabelledSlices, only_slices
from poscon.store.store import Store, slices_sha256
from poscon.store.weak_labels import add_ranges, check_label
from poscon.volumes.case import IGNORE, LabelScheme
from poscon.volumes.drawing import LabelSource, files_of
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.label_maps import read_label_header
from poscon.volumes.ranges import Ranges


def check_on_scan(store: Store, case: CaseRecord, path: LabelSource) -> None:
    """Refuse a label map that does not lie on the grid of a case's scan.

    Raises:
        PosconError: it does not, or the store does not know where the scan lies.
    """
    if case.affine is None:
        raise PosconError(
            f"{store.path}: written by an earlier poscon, it does not say where its scans lie; "
            "prepare it again"
        )
    header = read_label_header(path, spacing=case.stated_spacing)
    image = Path(case.source).name
    refuse_other_grid(path, header, image, case.geometry.shape, np.array(case.affine))


def read_added(
    case: CaseRecord, path: LabelSource, scheme: LabelScheme, labelled: LabelledSlices | None
) -> np.ndarray:
    """A label map as the store would keep it, by the same steps as in ``prepare``.

    Args:
        case: record of its case.
        path: label map on the grid of the scan.
        scheme: what its values mean; the classes are those that the store has or will have.
        labelled: the slices that are labelled; None: all.

    Returns:
        (slices, rows, columns) uint8, class indices; ``IGNORE`` where a voxel is not labelled.
    """
    geometry = SliceGeometry(**asdict(case.geometry))
    stack = class_stack(path, scheme, geometry, case.stated_spacing)
    if labelled is not None:
        stack = only_slices(stack, labelled, backwards=geometry.flips[0])
    _, rows, columns = case.shape
    return resample_classes(stack, (rows, columns), len(scheme.classes) + 1)


def known_labels(store: Store, case: CaseRecord) -> np.ndarray:
    """(slices, rows, columns) uint8, the labels of a case; ``IGNORE`` where it has none."""
    return store.label(case) if case.labelled else np.full(case.shape, IGNORE, np.uint8)


def write_label(
    store: Store, case: CaseRecord, label: np.ndarray, path: LabelSource, n_classes: int
) -> CaseRecord:
    """Write a label map beside that which a case has; the store does not name it yet.

    Args:
        store: that holds the case.
        case: its record.
        label: (slices, rows, columns) uint8, class indices as stored, at least one labelled voxel.
        path: the file that the labels come from.
        n_classes: number of foreground classes.

    Returns:
        The new record, for :func:`name_labels`.

    Raises:
        PosconError: the arrays of the case are damaged, or the disk is full.
    """
    image = _image_of(store, case)
    class_voxels, labelled_slices = count_labels(label, n_classes)
    stored = slices_sha256(image, label)
    record = replace(
        case,
        source_label=printable(str(files_of(path)[0].resolve())),
        class_voxels=class_voxels,
        labelled_slices=labelled_slices,
        stored_sha256=stored,
        label_file=f"label-{stored[:16]}.npy",
    )
    with complete(_folder(store, case) / record.label_file) as part:
        np.save(part, label)
    return record


def without_label(store: Store, case: CaseRecord) -> CaseRecord:
    """The record of a labelled case of which no voxel is labelled any more, for `name_labels`.

    Its ranges stay.

    Raises:
        PosconError: the arrays of the case are damaged.
    """
    return replace(
        case,
        source_label=None,
        class_voxels=None,
        labelled_slices=None,
        stored_sha256=slices_sha256(_image_of(store, case), None),
        label_file=LABEL_FILE,
    )


def name_labels(
    store: Store,
    records: Mapping[str, CaseRecord],
    classes: tuple[ClassRecord, ...],
    ranges: Ranges,
    *,
    ranges_from: str,
) -> None:
    """Write the manifest that names new label maps, or fewer, and has new ranges.

    Args:
        store: whose manifest it is.
        records: the changed records by case.
        classes: the foreground classes.
        ranges: the new ranges, by case and class, in numbers of the files' slices.
        ranges_from: the file that they are from, for messages.

    Raises:
        PosconError: a range contradicts a label map.
    """

    def label_of(case: CaseRecord) -> np.ndarray:
        return np.asarray(np.load(_folder(store, case) / case.label_file, mmap_mode="r"))

    changed = {
        "schema_version": SCHEMA_VERSION,
        "classes": classes,
        "cases": tuple(records.get(case.id, case) for case in store.cases),
    }
    manifest = store.manifest.model_copy(update=changed)
    manifest = add_ranges(manifest, ranges, label_of, where=ranges_from)
    names = [c.name for c in classes]
    for case in manifest.cases:  # a new label map has to agree with the ranges that stay, too
        if case.labelled and case.id in records and case.id not in ranges:
            where = f"{store.path}, range of case {case.id}"
            check_label(case, label_of(case), names, where=where)
    write_manifest(Path(store.path), manifest)


def tidy(store: Store, case: CaseRecord, record: CaseRecord) -> None:
    """Bring the folder of a case in line with the manifest, whatever an interruption left there.

    Args:
        store: that holds the case.
        case: its record before; its label map is kept.
        record: its record now.
    """
    folder = _folder(store, case)
    named = {one.label_file for one in (case, record) if one.labelled}
    sweep(folder)
    for file in folder.glob("label*.npy"):
        if file.name not in named:
            file.unlink()
    alone = replace(record, ranges={}, axis=None)  # these are in the manifest only
    write_case(folder / "case.json", alone)


def _image_of(store: Store, case: CaseRecord) -> np.ndarray:
    """The image of a case, after its arrays were compared with their hash.

    Raises:
        PosconError: they differ.
    """
    image = store.image(case)
    known = store.label(case) if case.labelled else None
    if slices_sha256(image, known) != case.stored_sha256:
        raise PosconError(
            f"{store.path}: case {case.id}: its arrays are not those that were prepared (the hash "
            "differs); prepare the store again"
        )
    return image


def _folder(store: Store, case: CaseRecord) -> Path:
    return Path(store.path) / "cases" / case.id
