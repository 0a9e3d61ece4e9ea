"""What a place holds that can be shown: scans, predictions, a store, a run."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from poscon.errors import PosconError
from poscon.evaluation.pairs import Reference, find_label_maps, find_references
from poscon.evaluation.schemes import folder_of, stated_labels
from poscon.leakage import read_entries
from poscon.predictions import PREDICTIONS_FILE, PredictionsFile
from poscon.store.manifest import MANIFEST, CaseRecord
from poscon.store.remote import is_url
from poscon.store.store import Store
from poscon.training.run import PREDICTIONS, RESULTS, RunFolder
from poscon.viewer.results import has_dice, mean_dice, read_dice
from poscon.viewer.shown import Collection, Shown, ShownRecord, ShownScan
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, Dataset, LabelScheme
from poscon.volumes.geometry import Plane
from poscon.volumes.layouts import is_dataset, read_dataset
from poscon.volumes.layouts.base import split_frames
from poscon.volumes.layouts.labels_json import stated_scheme
from poscon.volumes.scan import scan_stem

Found = TypeVar("Found")

TEST = "not seen in training"
_GROUPS = (TEST, "validation", "labelled", "unlabelled", "pretrain", "")
"""Headings of the list in the order in which they come."""


def collect(
    source: Path | str,
    *,
    labels: Path | None = None,
    predictions: Path | None = None,
    scans: Path | None = None,
    results: Path | None = None,
    layout: str | None = None,
    on_gap: str | None = None,
    series: str | None = None,
    spacing: Spacing | None = None,
) -> Collection:
    """Find the cases of a place.

    Args:
        source: a scan, a folder of scans, a folder of predictions, a store or a run.
        labels: references of scans: a label map, a folder of label maps, or a data set.
        predictions: predicted label maps of ``source``: a label map or a folder of them.
        scans: the scans, where ``source`` is a folder of predictions.
        results: what ``poscon evaluate`` wrote of the predictions. The worst cases come first.
        layout: layout of a folder of scans; None detects it.
        on_gap: what to do where slices of a DICOM series are missing.
        series: which DICOM series are shown; None: all.
        spacing: voxel size in mm along the files' axes, where the headers are wrong.

    Raises:
        PosconError: nothing there can be shown, or an option has no effect.
    """
    of_files = {
        "labels": labels,
        "scans": scans,
        "layout": layout,
        "on-gap": on_gap,
        "series": series,
        "source-spacing": spacing,
    }
    place = Path(source)
    if is_url(str(source)) or (place / MANIFEST).is_file():
        _refuse(of_files, f"{source} is a store")
        found = _of_store(Store(source), predictions)
    elif RunFolder(place).begun:
        _refuse(of_files, f"{source} is a run")
        found = _of_run(place, predictions)
        if results is None and predictions is None and (place / RESULTS).is_file():
            results = place / RESULTS
    elif scans is not None:
        _refuse({"predictions": predictions}, f"{source} holds the predictions")
        dataset = _dataset(scans, layout, on_gap=on_gap, series=series)
        found = _of_scans(place, dataset, labels, place, spacing, only_predicted=True)
    else:
        if (place / PREDICTIONS_FILE).is_file():
            raise PosconError(
                f"{place}: a folder of predictions; say with --scans where their scans are"
            )
        if place.suffix.lower() in (".json", ".csv") and has_dice(place):
            raise PosconError(
                f"{place}: a table cannot be shown; give the predictions, their --scans, and the "
                "table as --results"
            )
        dataset = _dataset(place, layout, on_gap=on_gap, series=series)
        found = _of_scans(place, dataset, labels, predictions, spacing)
    return _worst_first(found, None if results is None else read_dice(results), results)


def _refuse(options: Mapping[str, object], because: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise PosconError(f"--{name}: no effect, {because}; leave it out")


def _dataset(place: Path, layout: str | None, *, on_gap: str | None, series: str | None) -> Dataset:
    """The scans of a folder, or the frames of one file as a data set."""
    if is_dataset(place):
        return read_dataset(place, layout, on_gap=on_gap, series=series)
    _refuse({"layout": layout, "on-gap": on_gap, "series": series}, f"{place} is one scan")
    if not place.exists():
        raise PosconError(f"{place}: no such file or folder")
    case = Case(id=scan_stem(place), subject=scan_stem(place), image=place)
    return Dataset("file", place, tuple(split_frames(case)), None)


def _of_scans(
    source: Path,
    dataset: Dataset,
    labels: Path | None,
    predictions: Path | None,
    spacing: Spacing | None,
    *,
    only_predicted: bool = False,
) -> Collection:
    """The scans of a data set, with their references and predictions."""
    cases = dataset.cases
    references, scheme = _references(dataset, labels)
    maps = {} if predictions is None else find_label_maps(predictions)
    if predictions is not None and predictions.is_file():
        if len({_series(case) for case in cases}) > 1:
            raise PosconError(
                f"{predictions}: one label map for {len(cases)} scans; give the folder of all"
            )
        maps = {_series(cases[0]): predictions}
    own = None if predictions is None else stated_labels(folder_of(predictions))
    meanings = (_with_classes(scheme) or own or scheme, _with_classes(own) or scheme or own)
    names = [name for one in meanings if one is not None for name in one.names]
    classes = tuple(dict.fromkeys(names))
    planes = _planes(predictions)
    shown = [
        ShownScan(
            case,
            _of_case(case, references),
            _of_case(case, maps),
            meanings,
            classes,
            plane=planes.get(_series(case), "auto"),
            spacing=spacing,
            channels=dataset.channels if case.channels else ("image",),
        )
        for case in cases
    ]
    for place, matched in (
        (labels, [one for one in shown if one.has_reference]),
        (predictions, predicted := [one for one in shown if one.has_prediction]),
    ):
        if place is not None and not matched:
            raise PosconError(
                f"{place}: no label map has the name of a case of {dataset.root}, such as "
                f"{cases[0].id}"
            )
    return Collection(source.name, predicted if only_predicted else shown, classes or None)


def _references(
    dataset: Dataset, labels: Path | None
) -> tuple[dict[str, Reference], LabelScheme | None]:
    """The references by case, and what their values mean if that is stated."""
    if labels is None:
        found = {
            case.id: Reference(case.label, case.subject, case.frame_index, case.spacing)
            for case in dataset.cases
            if case.label is not None
        }
        scheme = dataset.labels
    else:
        series = {_series(case): labels for case in dataset.cases}
        found, scheme = find_references(labels, series)
    paths = [one.path for one in found.values() if isinstance(one.path, Path)]
    return found, scheme or stated_scheme(path for path in paths if path.is_file())


def _of_store(store: Store, predictions: Path | None) -> Collection:
    """The cases of a store."""
    groups = {case.id: "labelled" if case.labelled else "unlabelled" for case in store.cases}
    shown = _records(store, groups, predictions)
    return Collection(store.name, shown, store.class_names)


def _of_run(folder: Path, predictions: Path | None) -> Collection:
    """The cases that a run was trained on, and those of its store that were predicted."""
    run = RunFolder(folder)
    config = run.read_config()
    try:
        store = Store(config["store"])
    except PosconError as error:
        raise PosconError(f"{folder}: its store cannot be shown: {error}") from error
    own = [e for e in read_entries(folder) if e.get("by") == config["command"]]
    groups = {str(entry.get("id")): entry["role"] for entry in own}
    if unknown := groups.keys() - {case.id for case in store.cases}:
        raise PosconError(
            f"{folder}: was trained on a case {min(unknown)!r}, which {store.path} no longer has; "
            "give the store or the scans instead"
        )
    if predictions is None and (folder / PREDICTIONS).is_dir():
        predictions = folder / PREDICTIONS
    return Collection(folder.name, _records(store, groups, predictions), store.class_names)


def _records(
    store: Store, groups: Mapping[str, str], predictions: Path | None
) -> list[ShownRecord]:
    """Cases of a store: those that have a heading, and those that have a prediction.

    Raises:
        PosconError: there are predictions, but none of these cases.
    """
    stems = set() if predictions is None else set(find_label_maps(predictions))
    predicted = {case.id for case in store.cases if stems & _names(case)}
    if predictions is not None and not predicted:
        raise PosconError(
            f"{predictions}: no label map has the name of a case of {store.path}, such as "
            f"{store.cases[0].id}"
        )
    return [
        ShownRecord(
            store,
            case,
            predictions if case.id in predicted else None,
            groups.get(case.id, TEST),
        )
        for case in store.cases
        if case.id in groups or case.id in predicted
    ]


def _names(case: CaseRecord) -> set[str]:
    """The names that a label map of a stored case may have."""
    return {case.id, scan_stem(Path(case.source))}


def _worst_first(
    found: Collection, dice: dict[str, dict[str, float]] | None, results: Path | None
) -> Collection:
    """The same cases by heading; of each heading those with the lowest Dice first.

    Raises:
        PosconError: the results are of none of the cases.
    """
    dice = dice or {}
    known = {case.id: dice[case.id] for case in found.cases if case.id in dice}
    if results is not None and not known:
        raise PosconError(
            f"{results}: names no case of the {len(found.cases)} that are shown, such as "
            f"{found.cases[0].id}; give the results of these predictions"
        )
    order: Iterable[Shown] = sorted(
        found.cases,
        key=lambda case: (_GROUPS.index(case.group), mean_dice(known.get(case.id)), case.id),
    )
    return replace(found, cases=tuple(order), dice=known)


def _planes(predictions: Path | None) -> dict[str, Plane]:
    """The plane in which each label map was predicted, as far as its folder says."""
    if predictions is None:
        return {}
    facts = PredictionsFile(folder_of(predictions)).cases
    return {name: of_case.get("plane", "auto") for name, of_case in facts.items()}


def _series(case: Case) -> str:
    """The name of a file with all frames of a case."""
    return case.id if case.frame_index is None else re.sub(r"_frame\d+$", "", case.id)


def _of_case(case: Case, found: Mapping[str, Found]) -> Found | None:
    """What belongs to a case, or to the series of which it is a frame."""
    return found.get(case.id, found.get(_series(case)))


def _with_classes(scheme: LabelScheme | None) -> LabelScheme | None:
    return scheme if scheme is not None and scheme.classes else None
