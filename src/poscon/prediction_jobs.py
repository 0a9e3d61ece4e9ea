"""The scans that ``poscon predict`` segments, and what is written for each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.files import check_outside
from poscon.models import Model
from poscon.progress import say_lines
from poscon.store.names import Names
from poscon.store.selection import cases_named
from poscon.store.training_range import Difference
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case
from poscon.volumes.layouts import is_dataset, read_dataset
from poscon.volumes.ranges import Range, read_ranges
from poscon.volumes.scan import NIFTI, label_suffix, read_header, scan_stem, scan_suffix
from poscon.volumes.series import Series

OTHER_FILES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pdf"),
    *(".csv", ".json", ".txt", ".npy", ".npz", ".h5", ".mat", ".zip", ".gz", ".dcm"),
)
"""Ends of names that nobody gives to a folder."""


@dataclass(frozen=True)
class Job:
    """A scan to segment.

    Attributes:
        case: the case with its files.
        target: the label map to write.
        difference: how the names of its channels differ from those of the training, or None.
        ranges: where its structures begin and end, by class, for those that are known.
        ranges_from: the file and the case that the ranges are of.
        fingerprint: what tells whether the DICOM series is still the same; None for a file.
        segments: the series to which a DICOM-SEG is written; None: a label map is written.
    """

    case: Case
    target: Path
    difference: Difference | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    ranges_from: str = ""
    fingerprint: str | None = None
    segments: Series | None = None


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write among the scans. The next call would take the label maps as scans.

    Raises:
        PosconError: the output is the input, or lies in it.
    """
    if (output / "config.yaml").is_file() and (output / "cases.json").is_file():
        raise PosconError(f"{output}: a run; choose another folder for the label maps")
    if source.is_dir():
        check_outside(output, source)
        return
    if is_dataset(source):  # a table names its scans, whatever else is written beside them
        return
    inside, outside = output.resolve(), source.resolve()
    into_folder = output.is_dir() or not scan_suffix(output)
    if source.is_file() and outside == (inside / source.name if into_folder else inside):
        raise PosconError(f"{output}: the label map would replace the scan; choose another output")


def file_job(
    source: Path,
    output: Path,
    spacing: Spacing | None,
    **folder_options: object,
) -> list[Job]:
    """The job of one scan. Its target is ``output``, or lies in it if that is a folder.

    Raises:
        PosconError: the scan cannot be read, an option is for folders, or the target has a format
            that cannot carry the scan's geometry, or no format of scans at all.
    """
    for name, value in folder_options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise PosconError(f"--{option}: no effect on a single scan, {source} is no folder")
    read_header(source, spacing=spacing)
    case = Case(id=scan_stem(source), subject=scan_stem(source), image=source)
    if not scan_suffix(output):
        if output.suffix.lower() in OTHER_FILES and not output.is_dir():
            raise PosconError(
                f"{output}: {output.suffix} is no format of a label map; end it in "
                f"{scan_suffix(source)}, or name a folder"
            )
        return [Job(case, output / source.name)]
    if (scan_suffix(source) in NIFTI) != (scan_suffix(output) in NIFTI):
        raise PosconError(
            f"{output}: cannot carry the geometry of {source.name}; write it as "
            f"{scan_suffix(source)}"
        )
    return [Job(case, output)]


def as_segments(jobs: list[Job], source: Path, model: Model) -> list[Job]:
    """The jobs with DICOM-SEG objects as targets.

    Raises:
        PosconError: the scans are no DICOM series, or a class cannot be a segment.
    """
    from poscon.volumes.formats.dicom.writer import check_names  # few need pydicom

    found = []
    for job in jobs:
        series = job.case.image
        if not isinstance(series, Series):
            raise PosconError(
                f"{source}: --to seg has no effect on scans that are no DICOM series; leave it out"
            )
        found.append(
            replace(job, target=job.target.with_name(f"{job.case.id}.dcm"), segments=series)
        )
    check_names(model.scheme.names)
    return found


def with_ranges(jobs: list[Job], path: Path, model: Model) -> list[Job]:
    """The jobs with the ranges of their scans.

    Raises:
        PosconError: the file cannot be used, or names a case that is not segmented.
    """
    ranges = read_ranges(path, model.scheme.names)
    if unknown := ranges.keys() - {job.case.id for job in jobs}:
        raise PosconError(f"{path}: no case {min(unknown)!r} among the {len(jobs)} scan(s)")
    return [
        replace(job, ranges=ranges.get(job.case.id, {}), ranges_from=f"{path}, case {job.case.id}")
        for job in jobs
    ]


def folder_jobs(
    source: Path,
    output: Path,
    model: Model,
    cases: Names | None,
    **how: Any,
) -> list[Job]:
    """The jobs of a folder of scans: one for each case, or for each 4-D series.

    If the channels of the data set have names, the model takes those that it was trained on. The
    further arguments say how to read the folder, see :func:`poscon.volumes.layouts.read_dataset`.

    Raises:
        PosconError: the folder cannot be read, a name is no case of it, or the output is a file.
    """
    if output.is_file() or scan_suffix(output):
        raise PosconError(f"{output}: {source} is a folder of scans, so the output must be one too")
    dataset = read_dataset(source, **how)
    notes = dataset.passed_over if not dataset.origins else (*dataset.notes, *dataset.passed_over)
    say_lines([*dataset.origins, *(f"note: {line}" for line in notes)])
    order = model.channel_order(dataset.channels)
    difference = model.channel_difference(dataset.channels) if order is None else None
    chosen = list(dataset.cases)
    if cases is not None:
        chosen = cases_named(chosen, cases, source)
    jobs = {}
    for case in chosen:
        if case.frame_index is not None:
            series = re.sub(r"_frame\d+$", "", case.id)
            case = replace(case, id=series, frame=None, frame_index=None)
        if order is not None and case.channels:
            channels = tuple(case.channels[number] for number in order)
            case = replace(case, image=channels[0].file, channels=channels)
        target = output / f"{case.id}{label_suffix(case.image)}"
        image = case.image
        mark = image.fingerprint(source) if isinstance(image, Series) else None
        jobs[case.id] = Job(case, target, difference, fingerprint=mark)
    return list(jobs.values())
