"""A store while it is prepared: what it is made of and with, so that a stopped command goes on.

``preparing.json`` holds every setting, and what shows whether the files of a case have changed. It
is there until all cases are prepared. Then the manifest takes its place.
"""

import hashlib
import json
import shutil
from collections.abc import Set
from dataclasses import asdict
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.files import holds_nothing, read_json, sweep
from poscon.progress import raise_first
from poscon.store.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    ClassRecord,
    Manifest,
    refuse_inside_store,
    write_json,
    write_manifest,
)
from poscon.store.preparation import Job, finished, relative
from poscon.store.weak_labels import add_ranges
from poscon.version import __version__
from poscon.volumes.case import Case, Dataset
from poscon.volumes.drawing import Drawing, LabelSource
from poscon.volumes.label_maps import label_masks
from poscon.volumes.ranges import Ranges
from poscon.volumes.series import Series, Source

_STATE = "preparing.json"


def check_no_store(folder: Path) -> None:
    """Refuse a folder that has a store, or lies in one.

    Raises:
        PosconError: it does.
    """
    refuse_inside_store(folder)
    if (folder / MANIFEST).exists():
        raise PosconError(f"{folder}: there is a store already; choose another folder or delete it")


def open_unfinished(job: Job, dataset: Dataset, reversed_ids: Set[str]) -> None:
    """Begin a store in an empty folder, or continue an unfinished one with the same settings.

    Cases whose files have changed or are gone are removed from it.

    Args:
        job: what all cases have in common.
        dataset: the cases.
        reversed_ids: ids of the cases whose slices run the other way.

    Raises:
        PosconError: the folder holds something else, or an unfinished store with other settings.
    """
    root = dataset.root
    state = {
        "schema_version": SCHEMA_VERSION,
        "layout": dataset.layout,
        "preparation": job.preparation.model_dump(mode="json"),
        "labels": asdict(job.scheme),
        "nonempty": job.nonempty,
        "cases": {
            case.id: [
                [[*_stamp(channel.file, root), channel.index] for channel in case.all_channels],
                None if case.label is None else _label_stamp(case, root),
                case.id in reversed_ids,
                case.labelled_slices,
            ]
            for case in dataset.cases
        },
    }
    state = json.loads(json.dumps(state))
    path = job.store / _STATE
    if not path.is_file() and not holds_nothing(job.store):
        raise PosconError(f"{job.store}: exists and is not an unfinished store; choose another")
    if path.is_file():
        earlier = read_json(path)
        if not isinstance(earlier, dict) or not isinstance(earlier.get("cases"), dict):
            raise PosconError(f"{path}: damaged; remove {job.store}, and prepare it again")
        if {**earlier, "cases": None} != {**state, "cases": None}:
            raise PosconError(
                f"{job.store}: an unfinished store with other settings; "
                "delete it or choose another folder"
            )
        # by the names of the folders: those in the file may lead out of the store
        for folder in (job.store / "cases").glob("*"):
            if earlier["cases"].get(folder.name) != state["cases"].get(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
    write_json(path, state)


def _stamp(path: Source | LabelSource, root: Path) -> list[str | int]:
    """Values that show whether a file, or every file of a folder or series, is still the same."""
    if isinstance(path, Series):
        return [path.fingerprint(root)]
    if isinstance(path, Drawing):
        return [value for file in path.files for value in _stamp(file, root)]
    stamp: list[str | int] = [relative(path, root)]
    for file in label_masks(path).values() if path.is_dir() else [path]:
        status = file.stat()
        stamp += [file.name, status.st_size, status.st_mtime_ns]
    return stamp


def _label_stamp(case: Case, root: Path) -> list[str | int]:
    """That of the label map of a case; a hash for a DICOM series, whose folder may name people."""
    assert case.label is not None
    stamp = _stamp(case.label, root)
    if isinstance(case.image, Series):
        return [hashlib.sha256(json.dumps(stamp).encode()).hexdigest()]
    return stamp


def conclude(
    job: Job, dataset: Dataset, errors: list[str], ranges: Ranges, ranges_from: str
) -> None:
    """Write the manifest of a store whose cases are all prepared.

    Args:
        job: what all cases have in common.
        dataset: the cases.
        errors: one for each case that could not be prepared.
        ranges: by case and class.
        ranges_from: the file that they are from.

    Raises:
        PosconError: some cases could not be prepared, or a label map contradicts a range, and the
            prepared cases are kept; or no voxel is labelled.
    """
    store = job.store
    records = {r.id: r for case in dataset.cases if (r := finished(store, case)) is not None}
    if errors:
        if not records:
            shutil.rmtree(store)
        raise_first(errors)
    if any(case.label for case in dataset.cases) and not any(r.labelled for r in records.values()):
        shutil.rmtree(store)
        raise PosconError(
            f"{dataset.root}: not one voxel of its label maps is labelled; look at --ignore-label "
            "and --labelled-slices"
        )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        poscon_version=__version__,
        layout=dataset.layout,
        preparation=job.preparation,
        channels=dataset.channels,
        classes=tuple(ClassRecord(name=c.name, values=c.values) for c in job.scheme.classes),
        notes=(*dataset.notes, *([] if dataset.origins else dataset.passed_over)),
        cases=tuple(records[case.id] for case in dataset.cases),
    )
    manifest = add_ranges(
        manifest,
        ranges,
        lambda case: np.load(store / "cases" / case.id / case.label_file, mmap_mode="r"),
        where=ranges_from,
    )
    sweep(store / "cases")
    write_manifest(store, manifest)
    (store / _STATE).unlink()
