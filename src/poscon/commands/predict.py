"""``poscon predict``: scans in, label maps with the scans' own geometry out."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.executors import usable_cores
from poscon.leakage import describe, note_seen
from poscon.models import Model, PreparedScan
from poscon.progress import console, progress_bar
from poscon.store.preparation import stated_spacing
from poscon.store.selection import cases_named
from poscon.store.store import Names, write_json
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case
from poscon.volumes.layouts import read_dataset
from poscon.volumes.layouts.labels_json import LABELS_FILE
from poscon.volumes.scan import (
    NIFTI,
    first_volume,
    read_header,
    scan_stem,
    scan_suffix,
    write_labels,
)

READERS = 4
"""Most threads that read scans; one for every two cores."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@checked
def predict(
    run: Path | str,
    input: Path | str,
    output: Path | str,
    *,
    layout: str | None = None,
    channel: int | None = None,
    cases: Names | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    device: str | None = None,
    resume: bool = False,
) -> list[Path]:
    """Segment scans with a fine-tuned model.

    Every label map lies exactly on its scan: same shape, affine, header codes and file format,
    with the label values of the model's training data. A 4-D time series comes back 4-D. For a
    model of several image channels, a 4-D file holds the channels of one scan.

    Args:
        run: folder of a fine-tuning run.
        input: a scan, or a folder of scans in any known layout (its label maps are not read).
        output: for a scan, the file to write or a folder; for a folder, the folder to write. In a
            folder a label map is named by its case. ``labels.json`` says what its values mean.
        layout: of an input folder; None detects it.
        channel: which channel of a multi-channel input folder, counted from 0; None: all.
        cases: the cases or subjects of the input folder to segment: a file that names them, or a
            list of names; None: all.
        source_spacing: voxel size in mm along the axes of the files; it replaces that of the
            headers.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: keep the label maps that are there already and make the others.

    Returns:
        The files written, in the order of the cases.

    Raises:
        PosconError: an unusable run or scan, or an output that exists.
    """
    model = Model(run, device or "auto", source_spacing)
    source, output = Path(input), Path(output)
    jobs = (
        _folder_jobs(source, output, layout, channel, cases)
        if source.is_dir()
        else _file_job(
            source,
            output,
            model.preparation.source_spacing,
            layout=layout,
            channel=channel,
            cases=cases,
        )
    )
    existing = [target for _, target in jobs if target.exists()]
    if existing and not resume:
        raise PosconError(
            f"{existing[0]}: exists already; choose another output, or --resume to add the rest"
        )
    todo = [(case, target) for case, target in jobs if not target.exists()]
    # bad files are found before any work
    fitted = [
        model.fitted(case, read_header(case.image, spacing=stated_spacing(case, model.preparation)))
        for case, _ in todo
    ]
    folder = output if source.is_dir() or output.is_dir() or not scan_suffix(output) else None
    if folder is not None:
        _write_labels_file(folder, model)

    seen: dict[str, tuple[str, ...]] = {}

    def write(segmented: tuple[Case, Path, PreparedScan, list[np.ndarray]]) -> None:
        case, target, prepared, classes = segmented
        roles = model.roles(prepared)
        if roles:
            seen[case.id] = roles
        if folder is not None:  # before the label map, which says that this scan is done
            note_seen(folder, case.id, roles)
        labels = model.label_map(prepared, classes)
        like = (
            prepared.scan if labels.ndim == prepared.scan.data.ndim else first_volume(prepared.scan)
        )
        write_labels(target, labels, like)

    # some scans are read and one is written while the network works on the one between
    readers = max(1, min(READERS, usable_cores() // 2))
    scans = _in_threads(model.read, fitted, readers)
    segmented = (
        (case, target, scan, model.predict_classes(scan))
        for (case, target), scan in zip(todo, scans, strict=True)
    )
    with progress_bar() as progress:
        task = progress.add_task("segmenting", total=len(jobs), status="", completed=len(existing))
        for _ in _in_threads(write, segmented, 1):
            progress.advance(task)
    if seen:
        console.print(
            f"note: {describe(seen)}; how well they are segmented says little of new scans",
            soft_wrap=True,
        )
    return [target for _, target in jobs]


def _in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """``function`` of each item, in order; threads do the next ones while one is being used."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _file_job(
    source: Path,
    output: Path,
    spacing: Spacing | None,
    **folder_options: object,
) -> list[tuple[Case, Path]]:
    """One scan; its target is ``output``, or lies in it if that is a folder."""
    for name, value in folder_options.items():
        if value is not None:
            raise PosconError(f"--{name}: no effect on a single scan, {source} is no folder")
    read_header(source, spacing=spacing)
    case = Case(id=scan_stem(source), subject=scan_stem(source), image=source)
    if not scan_suffix(output):
        return [(case, output / source.name)]
    if (scan_suffix(source) in NIFTI) != (scan_suffix(output) in NIFTI):
        raise PosconError(
            f"{output}: cannot carry the geometry of {source.name}; write it as "
            f"{scan_suffix(source)}"
        )
    return [(case, output)]


def _folder_jobs(
    source: Path,
    output: Path,
    layout: str | None,
    channel: int | None,
    cases: Names | None,
) -> list[tuple[Case, Path]]:
    """The scans of a folder and their targets: one a case, or one a 4-D series."""
    if output.is_file() or scan_suffix(output):
        raise PosconError(f"{output}: {source} is a folder of scans, so the output must be one too")
    dataset = read_dataset(source, layout, channel=channel)
    for line in dataset.passed_over:
        console.print(f"note: {line}", soft_wrap=True, markup=False)
    chosen = list(dataset.cases)
    if cases is not None:
        chosen = cases_named(chosen, cases, source)
    jobs = {}
    for case in chosen:
        if case.frame_index is not None:
            series = re.sub(r"_frame\d+$", "", case.id)
            case = replace(case, id=series, frame=None, frame_index=None)
        jobs[case.id] = (case, output / f"{case.id}{scan_suffix(case.image)}")
    return list(jobs.values())


def _write_labels_file(folder: Path, model: Model) -> None:
    """Say beside the label maps what their values mean.

    Raises:
        PosconError: the folder has label maps of another meaning.
    """
    path = folder / LABELS_FILE
    content = {"classes": [c.model_dump(mode="json") for c in model.classes]}
    if path.is_file() and json.loads(path.read_text()) != content:
        raise PosconError(f"{path}: other classes than the model's; choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
