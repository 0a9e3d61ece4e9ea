"""``poscon predict``: scans in, label maps with the scans' own geometry out."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from poscon.errors import PosconError
from poscon.executors import usable_cores
from poscon.leakage import describe, note_seen, read_entries, roles_by_pixels
from poscon.networks.unet import UNet
from poscon.networks.weights import load_by_name, network_settings, read_weights
from poscon.progress import console, progress_bar
from poscon.store.intensity import check_voxels, guess_modality
from poscon.store.preparation import case_geometry, pixels_sha256, prepare_stack
from poscon.store.store import ClassRecord, Preparation, read_names, write_json
from poscon.training.inference import (
    channels_last,
    choose_device,
    largest_component,
    predicted_classes,
)
from poscon.training.run import MODEL
from poscon.volumes.case import Case, label_scheme
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.layouts import read_dataset
from poscon.volumes.layouts.labels_json import LABELS_FILE
from poscon.volumes.scan import (
    NIFTI,
    Scan,
    ScanHeader,
    first_volume,
    read_header,
    read_scan,
    scan_stem,
    scan_suffix,
    write_labels,
)

READERS = 4
"""Most threads that read scans; one for every two cores."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def predict(
    run: Path | str,
    input: Path | str,
    output: Path | str,
    *,
    layout: str | None = None,
    channel: int | None = None,
    cases: Path | str | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    device: str | None = None,
    resume: bool = False,
) -> list[Path]:
    """Segment scans with a fine-tuned model.

    Every label map lies exactly on its scan: same shape, affine, header codes and file format,
    with the label values of the model's training data. A 4-D scan comes back 4-D.

    Args:
        run: folder of a fine-tuning run.
        input: a scan, or a folder of scans in any known layout (its label maps are not read).
        output: for a scan, the file to write or a folder; for a folder, the folder to write. In a
            folder a label map is named by its case. ``labels.json`` says what its values mean.
        layout: of an input folder; None detects it.
        channel: which channel of a multi-channel input folder.
        cases: file naming the cases or subjects of the input folder to segment; None: all.
        source_spacing: mm along the files' axes, for scans whose headers are wrong.
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
        else _file_job(source, output, source_spacing, layout=layout, channel=channel, cases=cases)
    )
    existing = [target for _, target in jobs if target.exists()]
    if existing and not resume:
        raise PosconError(
            f"{existing[0]}: exists already; choose another output, or --resume to add the rest"
        )
    todo = [(case, target) for case, target in jobs if not target.exists()]
    headers = [  # bad files are found before any work
        read_header(case.image, spacing=source_spacing or case.spacing) for case, _ in todo
    ]
    folder = output if source.is_dir() or output.is_dir() or not scan_suffix(output) else None
    if folder is not None:
        _write_labels_file(folder, model)

    def write(segmented: tuple[_Prepared, list[np.ndarray], Path]) -> None:
        prepared, classes, target = segmented
        if folder is not None:  # before the label map, which says that this scan is done
            note_seen(folder, prepared.case.id, tuple(sorted(prepared.roles)))
        labels = model.label_map(prepared, classes)
        like = (
            prepared.scan if labels.ndim == prepared.scan.data.ndim else first_volume(prepared.scan)
        )
        write_labels(target, labels, like)

    # some scans are read and one is written while the network works on the one between
    cases_with_headers = [(case, header) for (case, _), header in zip(todo, headers, strict=True)]
    readers = max(1, min(READERS, usable_cores() // 2))
    scans = _in_threads(lambda told: model.read(*told), cases_with_headers, readers)
    segmented = (
        (scan, model.segment(scan), target) for scan, (_, target) in zip(scans, todo, strict=True)
    )
    with progress_bar() as progress:
        task = progress.add_task("segmenting", total=len(jobs), status="", completed=len(existing))
        for _ in _in_threads(write, segmented, 1):
            progress.advance(task)
    if model.seen:
        console.print(
            f"note: {describe(model.seen)}; how well they are segmented says little of new scans",
            soft_wrap=True,
        )
    return [target for _, target in jobs]


class Model:
    """A fine-tuned network with the preparation its training data had.

    Args:
        run: folder of a fine-tuning run.
        device: ``auto``, ``cpu`` or ``cuda``.
        source_spacing: mm along the files' axes that replaces the headers'.

    Attributes:
        seen: by case id, the roles in the model's training of the scans segmented so far that took
            part in it.
    """

    def __init__(
        self,
        run: Path | str,
        device: str,
        source_spacing: tuple[float, float, float] | None = None,
    ) -> None:
        path = Path(run) / MODEL
        tensors, about = read_weights(path)
        settings = network_settings(about, path)
        try:
            self.preparation = Preparation.model_validate(about["preparation"])
            self.size = int(about["size"])
            self.keep_largest_component = bool(about.get("keep_largest_component", False))
            self.classes = [ClassRecord.model_validate(c) for c in about["classes"]]
            modalities: list[str] = about["modalities"]
        except (KeyError, TypeError, ValidationError) as error:
            raise PosconError(f"{path}: not a model of poscon finetune ({error})") from error
        if source_spacing is not None:
            self.preparation = self.preparation.model_copy(
                update={"source_spacing": source_spacing}
            )
        self.known = roles_by_pixels(read_entries(Path(run)))
        self.seen: dict[str, tuple[str, ...]] = {}
        self.modality = modalities[0] if len(modalities) == 1 else None
        self.scheme = label_scheme(((c.name, c.values) for c in self.classes), where=str(path))
        self.network = UNet(settings, len(self.classes) + 1)
        load_by_name(self.network, tensors, where=str(path))
        channels_last(self.network.to(choose_device(device))).eval()

    def read(self, case: Case, header: ScanHeader) -> "_Prepared":
        """A scan, prepared for the network.

        Raises:
            PosconError: a scan that cannot be used.
        """
        scan = read_scan(case.image, spacing=self.preparation.source_spacing or case.spacing)
        volumes = [scan.data]
        if scan.data.ndim == 4:
            frames = range(scan.data.shape[3]) if case.frame_index is None else [case.frame_index]
            volumes = [scan.data[..., frame] for frame in frames]
        geometry = case_geometry(case, header, self.preparation)
        prepared = _Prepared(case, scan, geometry)
        for volume in volumes:
            check_voxels(volume, where=str(case.image))
            prepared.roles |= set(self.known.get(pixels_sha256(volume, header.affine), ()))
            modality = self.modality or case.modality or guess_modality(volume)
            stack, _ = prepare_stack(volume, geometry, self.preparation.spacing, modality)
            prepared.stacks.append(torch.from_numpy(stack))
        return prepared

    def segment(self, prepared: "_Prepared") -> list[np.ndarray]:
        """Classes of each of the scan's volumes, (slices, rows, columns) as scanned, uint8."""
        if prepared.roles:
            self.seen[prepared.case.id] = tuple(sorted(prepared.roles))
        _, rows, columns = prepared.geometry.stack_shape
        return [
            predicted_classes(self.network, stack, self.size, (rows, columns))
            for stack in prepared.stacks
        ]

    def label_map(self, prepared: "_Prepared", classes: Sequence[np.ndarray]) -> np.ndarray:
        """Label values on the scan's own grid, (X, Y, Z) or (X, Y, Z, frames)."""
        if self.keep_largest_component:
            classes = [largest_component(volume) for volume in classes]
        maps = [self.scheme.to_values(prepared.geometry.to_volume(volume)) for volume in classes]
        several = prepared.scan.data.ndim == 4 and prepared.case.frame_index is None
        return np.stack(maps, axis=-1) if several else maps[0]


@dataclass
class _Prepared:
    """A scan as the network takes it.

    Attributes:
        case: which it is.
        scan: as it was read.
        geometry: how each of its volumes is sliced.
        stacks: the slices of each, normalised, at the network's spacing.
        roles: of its volumes in the model's training.
    """

    case: Case
    scan: Scan
    geometry: SliceGeometry
    stacks: list[torch.Tensor] = field(default_factory=list)
    roles: set[str] = field(default_factory=set)


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
    source_spacing: tuple[float, float, float] | None,
    **folder_options: object,
) -> list[tuple[Case, Path]]:
    """One scan; its target is ``output``, or lies in it if that is a folder."""
    for name, value in folder_options.items():
        if value is not None:
            raise PosconError(f"--{name}: no effect on a single scan, {source} is no folder")
    read_header(source, spacing=source_spacing)
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
    cases: Path | str | None,
) -> list[tuple[Case, Path]]:
    """The scans of a folder and their targets: one a case, or one a 4-D series."""
    if output.is_file() or scan_suffix(output):
        raise PosconError(f"{output}: {source} is a folder of scans, so the output must be one too")
    dataset = read_dataset(source, layout, channel=channel)
    for line in dataset.passed_over:
        console.print(f"note: {line}", soft_wrap=True, markup=False)
    chosen = list(dataset.cases)
    if cases is not None:
        names = set(read_names(cases))
        unknown = names - {c.id for c in chosen} - {c.subject for c in chosen}
        if unknown:
            raise PosconError(
                f"{cases}: {len(unknown)} name(s) are neither a case nor a subject of {source}: "
                f"{', '.join(sorted(unknown)[:5])}"
            )
        chosen = [c for c in chosen if c.id in names or c.subject in names]
    jobs = {}
    for case in chosen:
        if case.frame_index is not None and case.frame is not None:  # a frame, not a channel
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
