"""Preparing one case: a scan in, its slices, labels and record in the store out."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from poscon.files import complete
from poscon.store.intensity import check_voxels, guess_modality, normalise
from poscon.store.resample import resample_classes, resample_images, resampled_size
from poscon.store.store import (
    CASE_FILE,
    CaseRecord,
    GeometryRecord,
    IntensityRecord,
    Preparation,
    slices_sha256,
    write_json,
)
from poscon.volumes.case import Case, LabelScheme
from poscon.volumes.geometry import SliceGeometry, slice_geometry
from poscon.volumes.label_maps import read_labels
from poscon.volumes.scan import ScanHeader, read_scan


@dataclass(frozen=True)
class Job:
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


def read_case_volume(case: Case, spacing: tuple[float, float, float] | None = None) -> np.ndarray:
    """(X, Y, Z) voxels of one case, one frame of a 4-D file, checked.

    Args:
        case: the case.
        spacing: mm along the file's axes where the user states it, else None.
    """
    data = read_scan(case.image, spacing=spacing or case.spacing).data
    if case.frame_index is not None:
        data = data[..., case.frame_index] if data.ndim == 4 else data
    where = str(case.image) if case.frame_index is None else f"{case.image} ({case.id})"
    check_voxels(data, where=where)
    return data


def prepare_case(job: Job, case: Case, header: ScanHeader, reverse: bool) -> None:
    """Write one case's folder; complete or absent."""
    geometry = case_geometry(case, header, job.preparation, reverse=reverse)
    volume = read_case_volume(case, job.preparation.source_spacing)
    modality = job.preparation.modality or case.modality or guess_modality(volume)
    image, intensity = prepare_stack(volume, geometry, job.preparation.spacing, modality)
    image = image.astype(np.float16)
    label, class_voxels = None, None
    if case.label is not None:
        spacing = job.preparation.source_spacing or case.spacing
        values = read_labels(case.label, job.scheme, spacing=spacing).data
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
        source=relative(case.image, job.root),
        source_label=None if case.label is None else relative(case.label, job.root),
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


def finished(store: Path, case: Case) -> CaseRecord | None:
    path = store / "cases" / case.id / "case.json"
    return CASE_FILE.validate_json(path.read_bytes()) if path.is_file() else None


def relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
