"""``poscon prepare`` reads scans and writes a store."""

import hashlib
import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.executors import Engine, check_engine, open_engine, outcomes, usable_cores
from poscon.files import alone, holds_nothing, read_json, sweep
from poscon.memory import free_memory
from poscon.progress import progress_bar, raise_first, say_lines
from poscon.settings import GivenSettings, Recipe, Settings, resolve
from poscon.store.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    ClassRecord,
    Manifest,
    Preparation,
    write_json,
    write_manifest,
)
from poscon.store.names import Names
from poscon.store.preparation import (
    Job,
    bytes_to_prepare,
    check_same_grid,
    finished,
    prepare_case,
    relative,
)
from poscon.store.remote import is_url
from poscon.store.selection import cases_named
from poscon.store.slices import (
    NONEMPTY,
    check_nonempty,
    check_slice_table,
    read_slice_table,
)
from poscon.store.store import Store
from poscon.store.weak_labels import add_ranges
from poscon.version import __version__
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, Dataset, LabelScheme
from poscon.volumes.drawing import Drawing, LabelSource
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.label_maps import choose_scheme, label_masks, refuse_ignore_label
from poscon.volumes.layouts import read_dataset
from poscon.volumes.ranges import Ranges, check_cases, read_ranges
from poscon.volumes.scan import ScanHeader, read_header
from poscon.volumes.series import Series, Source

_STATE = "preparing.json"
_PROCESS_BYTES = 2**29  # of a process without a scan
_WORTH_PROCESSES = 2**27  # voxels; with fewer, starting processes takes longer than it saves


class PrepareSettings(Settings):
    """The settings of ``poscon prepare``.

    Attributes:
        plane: plane of the slices; ``auto``: the plane in which the scan was acquired.
        spacing: pixel size in mm to which slices are resampled; ``native``: as scanned; ``auto``:
            the median in-plane spacing of the data set, over both axes. Pixels are then square.
        source_spacing: voxel size in mm along the file's axes, for files whose headers are wrong.
        modality: ``CT``, ``MR``, or ``auto``: by the layout, else by the values.
    """

    plane: Literal["auto", "axial", "coronal", "sagittal"] = "auto"
    spacing: float | Literal["auto", "native"] = "auto"
    source_spacing: tuple[float, float, float] | None = None
    modality: Literal["auto", "CT", "MR"] = "auto"

    @field_validator("modality", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        """``mr`` is read as ``MR``."""
        word = value.upper() if isinstance(value, str) else value
        return word if word in ("CT", "MR") else value

    @field_validator("spacing", "source_spacing")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else [value]
        if any(isinstance(n, float) and not 0 < n < float("inf") for n in numbers):
            raise ValueError("must be positive mm")
        return value


@checked
def prepare(
    source: Path | str,
    store: Path | str,
    *,
    layout: str | None = None,
    plane: str | None = None,
    spacing: float | Literal["auto", "native"] | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    modality: str | None = None,
    labels: str | None = None,
    ignore_label: int | None = None,
    labelled_slices: Path | str | None = None,
    ranges: Path | str | None = None,
    channel: int | str | None = None,
    reverse: Names | None = None,
    on_gap: str | None = None,
    case_name: str | None = None,
    processes: int | None = None,
    engine: str = "local",
    address: str | None = None,
    recipe: Recipe | None = None,
    settings: GivenSettings = (),
) -> Store:
    """Read a folder of scans in any known layout and write the prepared store.

    Called again with the same arguments after an interruption, it goes on where it was.

    Args:
        source: the folder, or a CSV file of paths (see :mod:`poscon.volumes.layouts.table`).
        store: the folder to write. It must be new, empty or an unfinished store.
        layout: name of the layout; None detects it.
        plane: ``axial``, ``coronal``, ``sagittal`` or ``auto`` (as acquired). This argument and
            the next three override the recipe. The recipe overrides the layout's own defaults.
        spacing: pixel size in mm to which slices are resampled, ``"auto"`` (the median of the
            data set) or ``"native"`` (as scanned).
        source_spacing: voxel size in mm along the axes of the files. It replaces that of the
            headers.
        modality: ``CT``, ``MR`` or ``auto``, in upper or lower case.
        labels: meaning of the label values, such as ``"1=RV,2=MYO"``. It overrides the layout.
        ignore_label: label value of voxels that are not labelled; None: as the layout says.
        labelled_slices: the labelled slices of the label maps. A CSV file with the columns ``case``
            and ``slice`` (see :func:`poscon.store.slices.read_slice_table`) names them. Numbers are
            from 0 along the axis that is sliced, in the order of the file. ``"nonempty"``: the
            slices with foreground; None: all.
        ranges: a CSV file with the first and the last slice of structures, see
            :mod:`poscon.volumes.ranges`: weak labels of the slices that have none. Numbers are
            those of the file's slices; None: no ranges.
        channel: number (from 0) or name of the channel of a multi-channel data set, or several with
            commas between them; None: all channels.
        reverse: names of the cases or subjects whose slices run the other way: a file (see
            :func:`poscon.store.names.read_names`), or a list.
        on_gap: what to do where slices of a DICOM series are missing or lie at uneven distances:
            ``refuse`` (None means the same), ``interpolate`` them, or ``split`` the series.
        case_name: DICOM attribute by which cases are named, such as ``PatientID``; None: they are
            numbered, and nothing that says who was scanned is written.
        processes: number of processes; None: as many as there are cores, one for a small set.
        engine: ``local`` or ``ray``. With ``ray``, every machine must have ``source`` and
            ``store`` at the same path.
        address: address of a Ray cluster; None starts one here.
        recipe: name, file or content of a recipe with a ``prepare`` section.
        settings: further settings, see :data:`poscon.settings.GivenSettings`.

    Returns:
        The store, opened.

    Raises:
        PosconError: there is no data set, a file cannot be used, or the store exists already.
    """
    if is_url(store):
        raise PosconError(
            f"{store}: a store is prepared in a folder of this machine; copy it there afterwards"
        )
    check_engine(engine, address, processes)
    source, store = Path(source), Path(store)
    if engine == "ray":  # its processes have other working folders
        source, store = source.absolute(), store.absolute()
    _check_new(store)
    dataset = read_dataset(source, layout, channel=channel, on_gap=on_gap, case_name=case_name)
    if dataset.origins:  # what names files is said, and not written
        say_lines([*dataset.origins, *(f"note: {line}" for line in dataset.passed_over)])
    chosen = _resolve_settings(
        dataset,
        recipe,
        settings,
        plane=plane,
        spacing=spacing,
        source_spacing=source_spacing,
        modality=modality,
    )
    headers = _check_headers(dataset, chosen)
    for option, value in (
        ("--labels", labels),
        ("--ignore-label", ignore_label),
        ("--labelled-slices", labelled_slices),
        ("--ranges", ranges),
    ):
        if value is not None and not any(case.label for case in dataset.cases):
            raise PosconError(f"{source}: {option} has no effect, no case has a label map")
    counts = _slice_counts(dataset, chosen, headers)
    dataset = _with_labelled_slices(dataset, labelled_slices, counts)
    scheme = _label_scheme(dataset, labels, ignore_label, chosen.source_spacing)
    known: Ranges = {} if ranges is None else read_ranges(Path(ranges), scheme.names)
    check_cases(known, counts, where=str(ranges), what=f"those of {source}")
    check_nonempty(scheme.ignore, labelled_slices, where=str(source))
    backwards = [] if reverse is None else cases_named(dataset.cases, reverse, source)
    reversed_ids = {case.id for case in backwards}
    job = Job(
        root=dataset.root,
        store=store,
        preparation=Preparation(
            plane=chosen.plane,
            spacing=_common_spacing(chosen, dataset, headers),
            source_spacing=chosen.source_spacing,
            modality=None if chosen.modality == "auto" else chosen.modality,
        ),
        scheme=scheme,
        nonempty=labelled_slices == NONEMPTY,
    )
    at_once = _as_memory_allows(job, dataset, headers, processes) if engine == "local" else None
    workers = open_engine(engine, address, at_once, gpus=False)  # before anything is written
    try:
        with alone(store, "prepare"):
            _check_new(store)  # another prepare may have written one since the check above
            _open_target(job, dataset, reversed_ids)
            todo = [case for case in dataset.cases if finished(store, case) is None]
            voxels = sum(
                math.prod(headers[case.id].shape[:3]) * len(case.all_channels) for case in todo
            )
            few = processes is None and voxels < _WORTH_PROCESSES
            here = engine == "local" and (processes == 1 or few)
            told = [
                (str(case.image), (job, case, headers[case.id], case.id in reversed_ids))
                for case in todo
            ]
            done = len(dataset.cases) - len(todo)
            errors = _prepare_cases(told, done, None if here else workers)
            _conclude(job, dataset, errors, known, str(ranges))
    finally:
        workers.close()
    return Store(store)


def _as_memory_allows(
    job: Job, dataset: Dataset, headers: dict[str, ScanHeader], processes: int | None
) -> int:
    """The number of processes: as the user says, else a core each, and no more than have room."""
    if processes is not None:
        return processes
    free, cores = free_memory(), usable_cores()
    largest = 1
    for case in dataset.cases:
        with suppress(PosconError):  # a spacing that is too coarse for it is refused with its name
            needed = bytes_to_prepare(case, headers[case.id], job.preparation)
            largest = max(largest, _PROCESS_BYTES + needed)
    if free is None or free >= cores * largest:
        return cores
    fit = max(1, free // largest)
    say_lines([f"note: {fit} scan(s) at a time, and not {cores}, as memory allows no more"])
    return fit


def _check_new(store: Path) -> None:
    if (store / MANIFEST).exists():
        raise PosconError(f"{store}: there is a store already; choose another folder or delete it")


def _conclude(
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


def _prepare_cases(
    told: list[tuple[str, tuple[Any, ...]]], done: int, workers: Engine | None
) -> list[str]:
    """Prepare cases, in this process or by workers.

    Args:
        told: file and arguments of :func:`_try_case`, for each case.
        done: number of cases that are finished already.
        workers: workers that prepare the cases; None: this process.

    Returns:
        The errors, one line for each case that could not be prepared.
    """
    errors = []
    with progress_bar() as progress:
        task = progress.add_task("preparing", total=done + len(told), completed=done, status="")
        for message in (
            (_try_case(*arguments) for _, arguments in told)
            if workers is None
            else outcomes(workers, _try_case, told)
        ):
            if message is not None:
                errors.append(message)
            progress.advance(task)
    return sorted(errors)


def _try_case(job: Job, case: Case, header: ScanHeader, reverse: bool) -> str | None:
    """Call :func:`prepare_case`. An error is returned as a text, which crosses any border."""
    try:
        prepare_case(job, case, header, reverse)
    except PosconError as error:
        return str(error)
    return None


def _open_target(job: Job, dataset: Dataset, reversed_ids: set[str]) -> None:
    """Begin a store in an empty folder, or continue an unfinished one with the same settings.

    Cases whose files have changed or are gone are removed from it.
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


def _resolve_settings(
    dataset: Dataset, recipe: Recipe | None, settings: GivenSettings, **arguments: Any
) -> PrepareSettings:
    """Take the layout's defaults, overridden by the recipe, by ``--set`` and by the options."""
    told = resolve(PrepareSettings, "prepare", recipe, settings, **arguments)
    defaults = PrepareSettings(**dataset.preparation)
    return defaults.model_copy(update={key: getattr(told, key) for key in told.model_fields_set})


def _check_headers(dataset: Dataset, settings: PrepareSettings) -> dict[str, ScanHeader]:
    """Check the headers of every case. All files that cannot be used are named."""
    headers, errors = {}, []
    with progress_bar() as progress:
        task = progress.add_task("reading headers", total=len(dataset.cases), status="")
        for case in dataset.cases:
            try:
                headers[case.id] = _check_header(case, settings)
            except PosconError as error:
                errors.append(str(error))
            progress.advance(task)
    raise_first(errors)
    return headers


def _check_header(case: Case, settings: PrepareSettings) -> ScanHeader:
    """Check that the files of a case fit together, by their headers alone."""
    spacing = settings.source_spacing or case.spacing
    header = read_header(case.image, spacing=spacing)
    whole: list[Source | LabelSource] = [
        channel.file for channel in case.all_channels if channel.index is None
    ]
    if case.label is not None:
        whole.append(case.label)
    for path in dict.fromkeys(whole):
        check_same_grid(path, case.image, header, spacing)
    return header


def _common_spacing(
    settings: PrepareSettings, dataset: Dataset, headers: dict[str, ScanHeader]
) -> float | None:
    """The pixel size of the store in mm. None: every case keeps its own."""
    if settings.spacing == "native":
        return None
    if isinstance(settings.spacing, float):
        return settings.spacing
    in_plane: list[float] = []
    for case in dataset.cases:
        header = headers[case.id]
        x, y, z, *_ = header.shape
        geometry = slice_geometry((x, y, z), header.affine, plane=settings.plane)
        in_plane.extend(geometry.spacing[1:])
    median = float(np.median(in_plane))
    return round(median, 4)


def _slice_counts(
    dataset: Dataset, settings: PrepareSettings, headers: dict[str, ScanHeader]
) -> dict[str, int]:
    """How many slices each case has, by its id."""
    counts = {}
    for case in dataset.cases:
        x, y, z, *_ = headers[case.id].shape
        geometry = slice_geometry((x, y, z), headers[case.id].affine, plane=settings.plane)
        counts[case.id] = geometry.stack_shape[0]
    return counts


def _with_labelled_slices(
    dataset: Dataset, labelled_slices: Path | str | None, counts: dict[str, int]
) -> Dataset:
    """The data set with the labelled slices of a table; cases that it does not name have no label.

    Args:
        dataset: as it was read.
        labelled_slices: see :func:`prepare`.
        counts: how many slices each case has.

    Raises:
        PosconError: the table cannot be used.
    """
    if labelled_slices is None or labelled_slices == NONEMPTY:
        return dataset
    path = Path(labelled_slices)
    table = read_slice_table(path, in_files=True)
    check_slice_table(table, counts, where=str(path), what=f"those of {dataset.root}")
    for case in dataset.cases:
        if case.id in table and case.label is None:
            raise PosconError(f"{path}: case {case.id} has no label map")
    absent = sum(case.label is not None and case.id not in table for case in dataset.cases)
    note = f"{absent} case(s) with a label map are not in {path.name}; they are not labelled."
    cases = tuple(
        replace(case, labelled_slices=table[case.id])
        if case.id in table
        else replace(case, label=None)
        for case in dataset.cases
    )
    notes = (*dataset.notes, note) if absent else dataset.notes
    return replace(dataset, cases=cases, notes=notes)


def _label_scheme(
    dataset: Dataset, labels: str | None, ignore_label: int | None, spacing: Spacing | None
) -> LabelScheme:
    """What the label values mean: as the user says, else as the layout says, else as found.

    Raises:
        PosconError: the value of unlabelled voxels means something else, or cannot be found.
    """
    refuse_ignore_label(ignore_label, (c.label for c in dataset.cases if c.label is not None))
    label_maps = ((c.label, spacing or c.spacing) for c in dataset.cases if c.label is not None)
    where = str(dataset.root)
    return choose_scheme(dataset.labels, labels, ignore_label, label_maps, where=where)
