"""``poscon predict`` segments scans. The label maps have the scans' own geometry."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from poscon.arguments import checked
from poscon.errors import PartlyDone, PosconError
from poscon.executors import usable_cores
from poscon.files import alone, check_writable, read_json
from poscon.leakage import describe, note_seen
from poscon.memory import check_room, free_memory
from poscon.models import Model
from poscon.prediction_jobs import (
    Job,
    as_segments,
    check_apart,
    file_job,
    folder_jobs,
    with_ranges,
)
from poscon.predictions import PREDICTIONS_FILE, PredictionsFile
from poscon.progress import console, progress_bar
from poscon.scan_preparation import PreparedScan, say_differences
from poscon.store.manifest import write_json
from poscon.store.names import Names
from poscon.store.preparation import case_geometry, stated_spacing
from poscon.volumes.case import Case
from poscon.volumes.layouts import is_dataset
from poscon.volumes.layouts.labels_json import LABELS_FILE
from poscon.volumes.ranges import Range, check_ranges
from poscon.volumes.scan import first_volume, read_header, scan_suffix, write_labels

READERS = 4
"""Largest number of threads that read scans. There is one for every two cores."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@checked
def predict(
    run: Path | str,
    input: Path | str,
    output: Path | str,
    *,
    layout: str | None = None,
    channel: int | str | None = None,
    cases: Names | None = None,
    ranges: Path | str | None = None,
    on_gap: str | None = None,
    series: str | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    average_views: bool = False,
    to: str | None = None,
    device: str | None = None,
    resume: bool = False,
) -> list[Path]:
    """Segment scans with a fine-tuned model.

    Every label map lies exactly on its scan. It has the same shape, affine, header codes and file
    format, and the label values of the model's training data. The label map of a 4-D time series
    is 4-D. For a model of several image channels, a 4-D file holds the channels of one scan.

    With ``to="seg"`` each label map of a DICOM series is a DICOM-SEG object that belongs to the
    patient, the study and the images of the series, and names them.

    Args:
        run: folder of a fine-tuning run.
        input: a scan, a folder of scans in any known layout, or a CSV file of their paths. Its
            label maps are not read.
        output: for a scan, the file to write or a folder; for a folder, the folder to write. In a
            folder a label map is named by its case. ``labels.json`` says what its values mean.
        layout: layout of an input folder; None detects it.
        channel: number (from 0) or name of the channel of a multi-channel input folder, or several
            with commas between them; None: all.
        cases: the cases or subjects of the input folder to segment: a file that names them, or a
            list of names; None: all.
        ranges: a CSV file with the first and the last slice of structures, see
            :mod:`poscon.volumes.ranges`. A class is removed outside its range; nothing is added
            inside it. A class or a case that the file does not name stays as predicted.
        on_gap: what to do where slices of a DICOM series are missing, see
            :func:`poscon.commands.prepare.prepare`.
        series: which DICOM series of an input folder are segmented, as for `prepare`; None: all.
        source_spacing: voxel size in mm along the axes of the files. It replaces that of the
            headers.
        average_views: whether probabilities are averaged over nine turned and zoomed views of each
            slice, see :mod:`poscon.training.average_views`. It takes ten times as long.
        to: ``seg``: DICOM-SEG, for DICOM series only; None: the format of the scan, NIfTI for
            DICOM series.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: whether to keep the label maps that are there and to make the others.

    Returns:
        The files written, in the order of the cases.

    Raises:
        PosconError: the run or the scan cannot be used, the output exists, or it is in the input
            folder.
        PartlyDone: some scans of a folder cannot be used. The others are segmented.
    """
    if to not in (None, "seg"):
        raise PosconError(f"--to {to}: must be seg; leave it out for the format of the scan")
    model = Model(run, device or "auto", source_spacing, average_views=average_views)
    source, output = Path(input), Path(output)
    check_apart(source, output)
    how = {"layout": layout, "channel": channel, "on_gap": on_gap, "series": series}
    jobs = (
        folder_jobs(source, output, model, cases, **how)
        if is_dataset(source)
        else file_job(source, output, model.preparation.source_spacing, cases=cases, **how)
    )
    if to == "seg":
        jobs = as_segments(jobs, source, model)
    if ranges is not None:
        jobs = with_ranges(jobs, Path(ranges), model)
    if not (is_dataset(source) or output.is_dir() or not scan_suffix(output)):
        check_writable(output)
        return _Prediction(model, None, jobs).do(resume)
    with alone(output, "predict"):
        whole = is_dataset(source) and cases is None
        return _Prediction(model, output, jobs, whole=whole).do(resume)


class _Prediction:
    """Segments scans, one after another. A scan that cannot be used does not stop the others.

    Args:
        model: the model.
        folder: folder for the label maps; None: the one label map goes to a named file.
        jobs: the scans.
        whole: whether they are all that there are.
    """

    def __init__(
        self, model: Model, folder: Path | None, jobs: Sequence[Job], *, whole: bool = False
    ) -> None:
        self.model, self.folder, self.jobs, self.whole = model, folder, jobs, whole
        self.record = None if folder is None else PredictionsFile(folder)
        self.failed: dict[str, str] = {}
        self.seen: dict[str, tuple[str, ...]] = {}
        self.planes: Counter[str] = Counter()
        self.largest = 1  # bytes that a scan takes

    def do(self, resume: bool) -> list[Path]:
        """Segment all scans, see :func:`predict`."""
        existing = self._existing(resume)
        todo = [job for job in self.jobs if job.target not in existing]
        cases = [self._fitted(job) for job in todo]  # this finds most bad files before any work
        if todo and not any(isinstance(case, Case) for case in cases):
            failures = [str(case) for case in cases]
            failed = dict(zip((job.case.id for job in todo), failures, strict=True))
            raise self._failure(failed, [])
        new_labels_file = False
        if self.record is not None:
            self.record.begin(self.model.sha256)
            if self.whole:
                self.record.forget_failures([job.case.id for job in self.jobs])
            new_labels_file = _write_labels_file(self.record.path.parent, self.model)
        # some scans are read and one is written while the network works on the one between
        free = free_memory()
        room = READERS if free is None else free // self.largest - 2
        readers = max(0, min(READERS, max(1, usable_cores() // 2), room))
        segmented = (
            (job, scan, [] if isinstance(scan, PosconError) else self._segment(scan))
            for job, scan in zip(todo, _in_threads(self._read, cases, readers), strict=True)
        )
        with progress_bar() as progress:
            done = len(existing)
            task = progress.add_task("segmenting", total=len(self.jobs), status="", completed=done)
            for _ in _in_threads(self._finish, segmented, min(1, readers)):
                progress.advance(task)
        self._conclude()
        written = [job.target for job in self.jobs if job.case.id not in self.failed]
        if self.record is not None and not (written or self.record.cases):
            self._leave_nothing(self.record, new_labels_file)
        if self.failed:
            raise self._failure(self.failed, written)
        return written

    def _leave_nothing(self, record: PredictionsFile, new_labels_file: bool) -> None:
        """Take back what was written beside label maps, of which there is none."""
        record.path.unlink(missing_ok=True)
        if new_labels_file:
            record.path.with_name(LABELS_FILE).unlink()

    def _failure(self, failed: dict[str, str], written: list[Path]) -> PosconError:
        """The error that is raised at the end."""
        if len(self.jobs) == 1:
            return PosconError(*failed.values())
        return PartlyDone("scan(s) could not be segmented", failed, len(self.jobs), written)

    def _existing(self, resume: bool) -> set[Path]:
        """The label maps that exist and are kept.

        Raises:
            PosconError: there are some and ``resume`` is false, or poscon did not write them.
        """
        existing = [job for job in self.jobs if job.target.exists()]
        if not existing:
            return set()
        if self.record is None:  # nothing says how one named file was made
            raise PosconError(f"{existing[0].target}: exists already; choose another output")
        if not resume:
            raise PosconError(
                f"{existing[0].target}: exists already; choose another output, or --resume to add "
                "the rest"
            )
        for job in existing:
            if job.case.id not in self.record.cases:
                raise PosconError(
                    f"{job.target}: is there, but {PREDICTIONS_FILE} beside it does not say "
                    "that poscon predict wrote it; choose another output"
                )
            self._check_made_alike(job, self.record)
        return {job.target for job in existing}

    def _check_made_alike(self, job: Job, record: PredictionsFile) -> None:
        """Refuse to keep a label map that was made in another way than the others will be.

        Raises:
            PosconError: it was.
        """
        name = job.case.id
        # numbers of DICOM series change when series come or go
        if record.cases[name].get("series") != job.fingerprint:
            raise PosconError(
                f"{job.target}: is the label map of another series, the DICOM files have changed; "
                "choose another output"
            )
        if record.views(name) != self.model.views:
            raise PosconError(
                f"{job.target}: was made with {record.views(name)} view(s) of a slice, now it is "
                f"{self.model.views}; choose another output, or change --average-views"
            )
        if record.emptied(name) != _limits(job.ranges):
            raise PosconError(
                f"{job.target}: was made with other ranges; choose another output, or give "
                "--ranges as before"
            )
        now = self.model.preparation.source_spacing
        if record.stated_spacing(name) != (None if now is None else list(now)):
            raise PosconError(
                f"{job.target}: was made with another voxel size; choose another output, or give "
                "--source-spacing as before"
            )

    def _fitted(self, job: Job) -> Case | PosconError:
        """The case as the model takes it, by the header of its file, or what is wrong with it."""
        try:
            spacing = stated_spacing(job.case, self.model.preparation)
            header = read_header(job.case.image, spacing=spacing)
            case = self.model.fitted(job.case, header)
            geometry = case_geometry(header, self.model.preparation_for(header))
            needed = self.model.bytes_to_segment(case, header)
            check_room(needed, str(case.image))
            self.largest = max(self.largest, needed)
            check_ranges(job.ranges, geometry.stack_shape[0], job.ranges_from)
            if job.segments is not None:
                from poscon.volumes.formats.dicom.writer import check_series

                check_series(job.segments)
            return case
        except PosconError as error:
            return error

    def _read(self, case: Case | PosconError) -> PreparedScan | PosconError:
        try:
            return case if isinstance(case, PosconError) else self.model.read(case)
        except PosconError as error:
            return error

    def _segment(self, scan: PreparedScan) -> list[np.ndarray]:
        classes = self.model.predict_classes(scan)
        scan.stacks.clear()  # nothing needs them any more
        return classes

    def _finish(self, one: tuple[Job, PreparedScan | PosconError, list[np.ndarray]]) -> None:
        """Write a label map, or note why there is none. One thread makes all notes here."""
        job, scan, classes = one
        if isinstance(scan, PreparedScan):
            self._write(job, scan, classes)
            return
        self.failed[job.case.id] = str(scan)
        if len(self.jobs) > 1:
            console.print(f"not segmented: {scan}", soft_wrap=True, markup=False)
        if self.record is not None:
            self.record.could_not(job.case.id, str(scan))

    def _write(self, job: Job, prepared: PreparedScan, classes: list[np.ndarray]) -> None:
        name, scan = job.case.id, prepared.scan
        if job.difference is not None:
            prepared.differences.append(job.difference)
        say_differences(name, prepared.differences)
        roles = self.model.roles(prepared)
        if roles:
            self.seen[name] = roles
        if self.record is not None:  # before the label map, which marks this scan as done
            note_seen(self.record.path.parent, name, roles)
            self.record.done(name, _facts(prepared, job, self.model))
        self.planes[prepared.geometry.plane] += 1
        labels = self.model.label_map(prepared, classes, job.ranges)
        if job.segments is None:
            like = scan if labels.ndim == scan.data.ndim else first_volume(scan)
            write_labels(job.target, labels, like)
            return
        from poscon.volumes.formats.dicom.writer import write_segments  # few need pydicom

        scheme = self.model.scheme
        segments = dict(zip(scheme.values, scheme.names, strict=True))
        write_segments(job.target, labels, job.segments, segments, self.model.sha256)

    def _conclude(self) -> None:
        """Say the plane and the spacing of the segmentation, and which scans training has seen."""
        mm = self.model.preparation.spacing
        pixels = "pixels as scanned" if mm is None else f"pixels of {mm:g} mm"
        for plane, n in self.planes.items():
            console.print(f"{n} scan(s) segmented in {plane} slices, {pixels}", soft_wrap=True)
        written = [job for job in self.jobs if job.case.id not in self.failed]
        if any(job.segments is not None for job in written):
            console.print(
                "note: a SEG names the patient and the study of its series, as an archive needs "
                "them; no other file of poscon does",
                soft_wrap=True,
            )
        if self.seen:
            console.print(
                f"note: {describe(self.seen)}; how well they are segmented says little of new "
                "scans",
                soft_wrap=True,
                markup=False,
            )


def _facts(prepared: PreparedScan, job: Job, model: Model) -> dict[str, Any]:
    """The entry of a label map in ``predictions.json``."""
    return {
        "plane": prepared.geometry.plane,
        "acquired": prepared.geometry.acquired,
        "scan_spacing_mm": prepared.geometry.spacing,
        "spacing_mm": prepared.spacing,
        "spacing_from": prepared.spacing_from,
        "source_spacing_mm": model.preparation.source_spacing,
        "modalities": prepared.modalities,
        "views": model.views,
        "unlike_training": [asdict(difference) for difference in prepared.differences],
        "emptied_outside": _limits(job.ranges),
        **({} if job.fingerprint is None else {"series": job.fingerprint}),
    }


def _limits(ranges: Mapping[str, Range]) -> dict[str, list[int]]:
    """Ranges as ``predictions.json`` has them: first and last slice, none of an absent class."""
    return {name: list(limits or ()) for name, limits in ranges.items()}


def _in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield ``function`` of each item, in order. Threads work ahead on the next items.

    With no thread, nothing is done ahead.
    """
    if threads == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _write_labels_file(folder: Path, model: Model) -> bool:
    """Write ``labels.json``, which says what the values of the label maps mean.

    Returns:
        Whether it was not there before.

    Raises:
        PosconError: the folder has label maps with another meaning.
    """
    path = folder / LABELS_FILE
    content = {"classes": [c.model_dump(mode="json") for c in model.classes]}
    if path.is_file():
        if read_json(path) != content:
            raise PosconError(f"{path}: other classes than the model's; choose another output")
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return True
