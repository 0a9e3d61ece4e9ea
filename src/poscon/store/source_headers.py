"""What the headers of a data set say, before any scan is read: whether its files fit together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.progress import progress_bar, raise_first
from poscon.store.preparation import check_same_grid
from poscon.store.prepare_settings import PrepareSettings
from poscon.store.slices import NONEMPTY, check_slice_table, read_slice_table
from poscon.volumes.case import Case, Dataset
from poscon.volumes.drawing import LabelSource
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.scan import ScanHeader, read_header
from poscon.volumes.series import Source


def check_headers(dataset: Dataset, settings: PrepareSettings) -> dict[str, ScanHeader]:
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


def common_spacing(
    settings: PrepareSettings, dataset: Dataset, headers: Mapping[str, ScanHeader]
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


def slice_counts(
    dataset: Dataset, settings: PrepareSettings, headers: Mapping[str, ScanHeader]
) -> dict[str, int]:
    """How many slices each case has, by its id."""
    counts = {}
    for case in dataset.cases:
        x, y, z, *_ = headers[case.id].shape
        geometry = slice_geometry((x, y, z), headers[case.id].affine, plane=settings.plane)
        counts[case.id] = geometry.stack_shape[0]
    return counts


def with_labelled_slices(
    dataset: Dataset, labelled_slices: Path | str | None, counts: Mapping[str, int]
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
