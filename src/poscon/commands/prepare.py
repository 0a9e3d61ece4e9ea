"""``poscon prepare`` reads scans and writes a store."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.executors import Engine, check_engine, open_engine, outcomes, usable_cores
from poscon.files import alone
from poscon.memory import free_memory
from poscon.progress import progress_bar, say_lines
from poscon.settings import GivenSettings, Recipe, resolve
from poscon.store.manifest import (
    Preparation,
)
from poscon.store.names import Names
from poscon.store.preparation import (
    Job,
    bytes_to_prepare,
    finished,
    prepare_case,
)
from poscon.store.prepare_settings import PrepareSettings
from poscon.store.remote import is_url
from poscon.store.selection import cases_named
from poscon.store.slices import (
    NONEMPTY,
    check_nonempty,
)
from poscon.store.source_headers import (
    check_headers,
    common_spacing,
    slice_counts,
    with_labelled_slices,
)
from poscon.store.store import Store
from poscon.store.unfinished import check_no_store, conclude, open_unfinished
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, Dataset, LabelScheme
from poscon.volumes.label_maps import choose_scheme, refuse_ignore_label
from poscon.volumes.layouts import read_dataset
from poscon.volumes.ranges import Ranges, check_cases, read_ranges
from poscon.volumes.scan import ScanHeader

_PROCESS_BYTES = 2**29  # of a process without a scan
_WORTH_PROCESSES = 2**27  # voxels; with fewer, starting processes takes longer than it saves


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
    series: str | None = None,
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
        series: which DICOM series are read: ``KEYWORD=PATTERN``, such as
            ``SeriesDescription=*t2*|*haste*``, with ``*`` for any text and ``|`` between
            alternatives; None: all.
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
    check_no_store(store)
    dataset = read_dataset(
        source, layout, channel=channel, on_gap=on_gap, case_name=case_name, series=series
    )
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
    headers = check_headers(dataset, chosen)
    for option, value in (
        ("--labels", labels),
        ("--ignore-label", ignore_label),
        ("--labelled-slices", labelled_slices),
        ("--ranges", ranges),
    ):
        if value is not None and not any(case.label for case in dataset.cases):
            raise PosconError(f"{source}: {option} has no effect, no case has a label map")
    counts = slice_counts(dataset, chosen, headers)
    dataset = with_labelled_slices(dataset, labelled_slices, counts)
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
            spacing=common_spacing(chosen, dataset, headers),
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
            check_no_store(store)  # another prepare may have written one since the check above
            open_unfinished(job, dataset, reversed_ids)
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
            conclude(job, dataset, errors, known, str(ranges))
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


def _resolve_settings(
    dataset: Dataset, recipe: Recipe | None, settings: GivenSettings, **arguments: Any
) -> PrepareSettings:
    """Take the layout's defaults, overridden by the recipe, by ``--set`` and by the options."""
    told = resolve(PrepareSettings, "prepare", recipe, settings, **arguments)
    defaults = PrepareSettings(**dataset.preparation)
    return defaults.model_copy(update={key: getattr(told, key) for key in told.model_fields_set})


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
