"""``poscon prepare``: scans in, store out."""

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import field_validator

from poscon import __version__
from poscon.engines import Engine, check_engine, open_engine, outcomes
from poscon.errors import PosconError
from poscon.files import complete
from poscon.progress import progress_bar
from poscon.settings import Recipe, Settings, resolve
from poscon.store.intensity import check_voxels, guess_modality, normalise
from poscon.store.remote import is_url
from poscon.store.resample import resample_classes, resample_images, resampled_size
from poscon.store.store import (
    CASE_FILE,
    MANIFEST,
    SCHEMA_VERSION,
    CaseRecord,
    ClassRecord,
    GeometryRecord,
    IntensityRecord,
    Manifest,
    Preparation,
    Store,
    read_names,
    slices_sha256,
    write_json,
)
from poscon.volumes.case import Case, Dataset, LabelClass, LabelScheme, parse_labels
from poscon.volumes.geometry import SliceGeometry, slice_geometry
from poscon.volumes.layouts import read_dataset
from poscon.volumes.scan import ScanHeader, read_header, read_scan

_STATE = "preparing.json"
_WORTH_PROCESSES = 2**27  # voxels: with fewer, starting processes takes longer than it saves
_MOST_CLASSES = 255  # a class index is stored in a byte
_SAME_PLACE = 0.05  # of a voxel: how far image and label may lie apart


class PrepareSettings(Settings):
    """What ``poscon prepare`` may be told.

    Attributes:
        plane: slice in this plane; ``auto``: the plane the scan was acquired in.
        spacing: in-plane resampling: mm per pixel, ``native`` for none, ``auto`` for the median
            in-plane spacing of the data set (over both axes: pixels come out square).
        source_spacing: mm along the file's axes, for files whose headers are wrong.
        modality: ``CT``, ``MR``, or ``auto``: by the layout, else by the values.
    """

    plane: Literal["auto", "axial", "coronal", "sagittal"] = "auto"
    spacing: float | Literal["auto", "native"] = "auto"
    source_spacing: tuple[float, float, float] | None = None
    modality: Literal["auto", "CT", "MR"] = "auto"

    @field_validator("spacing", "source_spacing")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else [value]
        if any(isinstance(n, float) and not 0 < n < float("inf") for n in numbers):
            raise ValueError("must be positive mm")
        return value


def prepare(
    source: Path | str,
    store: Path | str,
    *,
    layout: str | None = None,
    plane: str | None = None,
    spacing: float | str | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    modality: str | None = None,
    labels: str | None = None,
    channel: int | None = None,
    reverse: Path | str | None = None,
    processes: int | None = None,
    engine: str = "local",
    address: str | None = None,
    recipe: Recipe | None = None,
    settings: Iterable[str] = (),
) -> Store:
    """Read a folder of scans in any known layout and write the prepared store.

    Interrupted, it goes on where it was when run again with the same arguments.

    Args:
        source: the folder.
        store: the folder to write; must not exist, or be an unfinished one.
        layout: name of the layout; None detects it.
        plane: see :class:`PrepareSettings`; overrides the recipe, which overrides the layout's own
            defaults.
        spacing: likewise.
        source_spacing: likewise.
        modality: likewise.
        labels: what label values mean, ``"1=RV,2=MYO"``; overrides the layout.
        channel: which channel of a multi-channel data set.
        reverse: file with the cases whose slices run the other way (see :func:`read_names`).
        processes: how many to use; None: as many as there are cores, one for a small set.
        engine: ``local`` or ``ray``; then every machine must have ``source`` and ``store`` at the
            same place.
        address: of a Ray cluster; None starts one here.
        recipe: name, file or content of a recipe with a ``prepare`` section.
        settings: further ``key=value`` settings.

    Returns:
        The store, opened.

    Raises:
        PosconError: nothing found, a file that cannot be used, or an existing target.
    """
    if is_url(store):
        raise PosconError(
            f"{store}: a store is prepared in a folder of this machine; copy it there afterwards"
        )
    check_engine(engine, address, processes)
    source, store = Path(source), Path(store)
    if engine == "ray":  # whose processes are elsewhere
        source, store = source.absolute(), store.absolute()
    if (store / MANIFEST).exists():
        raise PosconError(f"{store}: there is a store already; choose another folder or delete it")
    dataset = read_dataset(source, layout, channel=channel)
    chosen = _resolve_settings(
        dataset,
        recipe,
        settings,
        plane=plane,
        spacing=spacing,
        source_spacing=source_spacing,
        modality=modality,
    )
    headers = {case.id: _check_header(case, chosen) for case in dataset.cases}
    scheme = parse_labels(labels) if labels is not None else dataset.labels
    if labels is not None and not any(case.label for case in dataset.cases):
        raise PosconError(f"{source}: --labels has no effect, no case has a label map")
    reversed_ids = _reversed(dataset, reverse)
    job = _Job(
        root=source,
        store=store,
        preparation=Preparation(
            plane=chosen.plane,
            spacing=_common_spacing(chosen, dataset, headers),
            source_spacing=chosen.source_spacing,
            modality=None if chosen.modality == "auto" else chosen.modality,
        ),
        scheme=scheme or _discover_labels(dataset),
    )
    if len(job.scheme.classes) > _MOST_CLASSES:
        raise PosconError(
            f"{source}: {len(job.scheme.classes)} label values, a store holds {_MOST_CLASSES} "
            "classes; is an image named like a label map?"
        )
    workers = open_engine(engine, address, processes, gpus=False)  # before anything is written
    try:
        _open_target(job, dataset, reversed_ids)
        todo = [case for case in dataset.cases if _finished(store, case) is None]
        voxels = sum(math.prod(headers[case.id].shape[:3]) for case in todo)
        few = processes is None and voxels < _WORTH_PROCESSES
        alone = engine == "local" and (processes == 1 or few)
        done = len(dataset.cases) - len(todo)
        told = [
            (str(case.image), (job, case, headers[case.id], case.id in reversed_ids))
            for case in todo
        ]
        errors = _prepare_cases(told, done, None if alone else workers)
    finally:
        workers.close()
    records = {r.id: r for case in dataset.cases if (r := _finished(store, case)) is not None}
    if errors:
        if not records:
            shutil.rmtree(store)
        more = f" (and {len(errors) - 1} more file(s) with errors)" if len(errors) > 1 else ""
        raise PosconError(f"{errors[0]}{more}")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        poscon_version=__version__,
        layout=dataset.layout,
        preparation=job.preparation,
        classes=tuple(ClassRecord(name=c.name, values=c.values) for c in job.scheme.classes),
        notes=dataset.notes,
        cases=tuple(records[case.id] for case in dataset.cases),
    )
    for leftover in (store / "cases").glob(".writing-*"):  # of processes that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    write_json(store / MANIFEST, manifest.model_dump(mode="json"))
    (store / _STATE).unlink()
    return Store(store)


@dataclass(frozen=True)
class _Job:
    """What every case of one ``prepare`` has in common."""

    root: Path
    store: Path
    preparation: Preparation
    scheme: LabelScheme


def prepare_stack(
    volume: np.ndarray, geometry: SliceGeometry, spacing: float | None, modality: str
) -> tuple[np.ndarray, IntensityRecord]:
    """One volume as the network sees it; :func:`poscon.prepare` and ``predict`` share it.

    Args:
        volume: (X, Y, Z) in file order.
        geometry: how to slice it.
        spacing: mm per pixel in plane, or None: as scanned.
        modality: ``"CT"`` or ``"MR"``.

    Returns:
        (slices, rows, columns) float32, normalised; and the record of the normalisation.
    """
    # contiguous first: sums then do not depend on the axis order of the file
    stack = np.ascontiguousarray(geometry.to_stack(volume))
    normalised, intensity = normalise(stack, modality)
    _, *in_plane = geometry.stack_shape
    size = resampled_size((in_plane[0], in_plane[1]), geometry.spacing[1:], spacing)
    return resample_images(normalised, size), IntensityRecord(**asdict(intensity))


def case_geometry(
    case: Case, header: ScanHeader, preparation: Preparation, *, reverse: bool = False
) -> SliceGeometry:
    """How a case's volume is sliced, from its header and from what overrides it."""
    x, y, z, *_ = header.shape
    return slice_geometry(
        (x, y, z),
        header.affine,
        spacing=preparation.source_spacing or case.spacing,
        plane=preparation.plane,
        reverse=reverse,
    )


def read_case_volume(case: Case) -> np.ndarray:
    """(X, Y, Z) voxels of one case, one frame of a 4-D file, checked."""
    data = read_scan(case.image).data
    if case.frame_index is not None:
        data = data[..., case.frame_index] if data.ndim == 4 else data
    where = str(case.image) if case.frame_index is None else f"{case.image} ({case.id})"
    check_voxels(data, where=where)
    return data


def _prepare_case(job: _Job, case: Case, header: ScanHeader, reverse: bool) -> None:
    """Write one case's folder; complete or absent."""
    geometry = case_geometry(case, header, job.preparation, reverse=reverse)
    volume = read_case_volume(case)
    modality = job.preparation.modality or case.modality or guess_modality(volume)
    image, intensity = prepare_stack(volume, geometry, job.preparation.spacing, modality)
    image = image.astype(np.float16)
    label, class_voxels = None, None
    if case.label is not None:
        values = read_scan(case.label).data
        classes = job.scheme.to_classes(values, where=str(case.label))
        n_classes = len(job.scheme.classes) + 1
        _, *in_plane = image.shape
        label = resample_classes(geometry.to_stack(classes), (in_plane[0], in_plane[1]), n_classes)
        class_voxels = tuple(np.bincount(label.ravel(), minlength=n_classes)[1:].tolist())
    slices, rows, columns = image.shape
    mm, *in_plane_mm = geometry.spacing
    record = CaseRecord(
        id=case.id,
        subject=case.subject,
        frame=case.frame,
        source=_relative(case.image, job.root),
        source_label=None if case.label is None else _relative(case.label, job.root),
        frame_index=case.frame_index,
        geometry=GeometryRecord(**asdict(geometry)),
        spacing_from=(
            "user" if job.preparation.source_spacing else "layout" if case.spacing else "header"
        ),
        shape=(slices, rows, columns),
        spacing=(
            mm,
            in_plane_mm[0] * geometry.stack_shape[1] / rows,
            in_plane_mm[1] * geometry.stack_shape[2] / columns,
        ),
        intensity=intensity,
        class_voxels=class_voxels,
        pixels_sha256=pixels_sha256(volume, header.affine),
        stored_sha256=slices_sha256(image, label),
    )
    with complete(job.store / "cases" / case.id) as part:
        part.mkdir()
        np.save(part / "image.npy", image)
        if label is not None:
            np.save(part / "label.npy", label)
        write_json(part / "case.json", CASE_FILE.dump_python(record, mode="json"))


def pixels_sha256(volume: np.ndarray, affine: np.ndarray) -> str:
    """Hash of a scan's voxels in canonical orientation: the same in any order of the axes.

    Args:
        volume: (X, Y, Z).
        affine: (4, 4), from voxels to mm.
    """
    x, y, z = volume.shape
    canonical = slice_geometry((x, y, z), affine, plane="axial").to_stack(volume)
    voxels = np.ascontiguousarray(canonical, dtype="<f4")
    return hashlib.sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()


def _prepare_cases(
    told: list[tuple[str, tuple[Any, ...]]], done: int, workers: Engine | None
) -> list[str]:
    """Prepare cases, in this process or by workers; returns what could not be, one line each.

    Args:
        told: of each, its file and the arguments of :func:`_try_case`.
        done: how many are finished already.
        workers: None: this process.
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


def _try_case(job: _Job, case: Case, header: ScanHeader, reverse: bool) -> str | None:
    """:func:`_prepare_case`, with what the user can mend returned: it crosses any border."""
    try:
        _prepare_case(job, case, header, reverse)
    except PosconError as error:
        return str(error)
    return None


def _finished(store: Path, case: Case) -> CaseRecord | None:
    path = store / "cases" / case.id / "case.json"
    return CASE_FILE.validate_json(path.read_bytes()) if path.is_file() else None


def _open_target(job: _Job, dataset: Dataset, reversed_ids: set[str]) -> None:
    """Create the store's folder, or take up an unfinished one made with the same settings.

    Cases whose files have changed since, or that are gone, are dropped from it.
    """
    root = dataset.root
    state = {
        "schema_version": SCHEMA_VERSION,
        "layout": dataset.layout,
        "preparation": job.preparation.model_dump(mode="json"),
        "labels": asdict(job.scheme),
        "cases": {
            case.id: [_stamp(case.image, root), _stamp(case.label, root), case.id in reversed_ids]
            for case in dataset.cases
        },
    }
    state = json.loads(json.dumps(state))
    path = job.store / _STATE
    if not job.store.exists():
        job.store.mkdir(parents=True)
    elif not path.is_file():
        raise PosconError(f"{job.store}: exists and is not an unfinished store; choose another")
    else:
        earlier = json.loads(path.read_text())
        if {**earlier, "cases": None} != {**state, "cases": None}:
            raise PosconError(
                f"{job.store}: an unfinished store with other settings; "
                "delete it or choose another folder"
            )
        for case_id, stamps in earlier["cases"].items():
            if state["cases"].get(case_id) != stamps:
                shutil.rmtree(job.store / "cases" / case_id, ignore_errors=True)
    write_json(path, state)


def _stamp(path: Path | None, root: Path) -> list[str | int] | None:
    """What tells that a file is still the same."""
    if path is None:
        return None
    status = path.stat()
    return [_relative(path, root), status.st_size, status.st_mtime_ns]


def _resolve_settings(
    dataset: Dataset, recipe: Recipe | None, settings: Iterable[str], **arguments: Any
) -> PrepareSettings:
    """The layout's defaults, overridden by the recipe, by ``--set`` and by the options."""
    told = resolve(PrepareSettings, "prepare", recipe, settings, **arguments)
    defaults = PrepareSettings(**dataset.preparation)
    return defaults.model_copy(update={key: getattr(told, key) for key in told.model_fields_set})


def _check_header(case: Case, settings: PrepareSettings) -> ScanHeader:
    """Find out from the headers alone that a case's files fit together."""
    header = read_header(case.image)
    if len(header.shape) > 3 and case.frame_index is None:
        raise PosconError(
            f"{case.image}: shape {header.shape}, a 3-D volume was expected; "
            "write it as 3-D or leave it out"
        )
    if case.label is not None:
        label = read_header(case.label)
        if label.shape[:3] != header.shape[:3] or len(label.shape) > 3:
            raise PosconError(
                f"{case.label}: shape {label.shape} differs from that of its image "
                f"{case.image.name}, {header.shape[:3]}; fix or leave out the pair"
            )
        corners = np.stack(
            np.meshgrid(*([0, n - 1] for n in header.shape[:3]), [1], indexing="ij"), -1
        ).reshape(-1, 4)
        apart = np.abs(corners @ (header.affine - label.affine).T).max()
        if apart > _SAME_PLACE * min(header.spacing):
            raise PosconError(
                f"{case.label}: lies up to {apart:.3g} mm from its image {case.image.name} "
                "(the affines differ); fix or leave out the pair"
            )
    stated = settings.source_spacing or case.spacing or header.spacing
    return replace(header, spacing=stated)


def _common_spacing(
    settings: PrepareSettings, dataset: Dataset, headers: dict[str, ScanHeader]
) -> float | None:
    """In-plane mm per pixel that the store will have; None: every case as scanned."""
    if settings.spacing == "native":
        return None
    if isinstance(settings.spacing, float):
        return settings.spacing
    in_plane: list[float] = []
    for case in dataset.cases:
        x, y, z, *_ = headers[case.id].shape
        header = headers[case.id]
        geometry = slice_geometry(
            (x, y, z), header.affine, spacing=header.spacing, plane=settings.plane
        )
        in_plane.extend(geometry.spacing[1:])
    median = float(np.median(in_plane))
    return round(median, 4)


def _discover_labels(dataset: Dataset) -> LabelScheme:
    """Every value that occurs becomes a class: for a folder that does not say what they mean."""
    counts: Counter[int] = Counter()
    for case in dataset.cases:
        if case.label is not None:
            values = np.unique(read_scan(case.label).data)
            counts.update(int(v) for v in values[np.isfinite(values)])  # others are refused later
    foreground = sorted(v for v in counts if v != 0)
    return LabelScheme(tuple(LabelClass(f"class_{v}", (v,)) for v in foreground))


def _reversed(dataset: Dataset, reverse: Path | str | None) -> set[str]:
    if reverse is None:
        return set()
    names = set(read_names(reverse))
    unknown = names - {c.id for c in dataset.cases} - {c.subject for c in dataset.cases}
    if unknown:
        raise PosconError(
            f"{reverse}: {len(unknown)} name(s) are neither a case nor a subject of "
            f"{dataset.root}: {', '.join(sorted(unknown)[:5])}"
        )
    return {c.id for c in dataset.cases if c.id in names or c.subject in names}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
