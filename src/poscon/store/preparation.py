"""Preparing one case: a scan in, its slices, labels and record in the store out."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.files import complete, printable
from poscon.memory import check_room, give_back_memory
from poscon.store.intensity import (
    check_voxels,
    guess_modality,
    intensity_of,
    normalised,
)
from poscon.store.manifest import (
    LABEL_FILE,
    CaseRecord,
    ChannelRecord,
    GeometryRecord,
    IntensityRecord,
    Preparation,
    read_case,
    write_case,
)
from poscon.store.resample import resample_classes, resample_images, resampled_size
from poscon.store.slices import NONEMPTY, LabelledSlices, only_slices
from poscon.store.store import slices_sha256
from poscon.volumes.affine import Spacing, apart_mm, same_place, same_voxels
from poscon.volumes.case import IGNORE, Case, Channel, LabelScheme
from poscon.volumes.drawing import Drawing, LabelSource
from poscon.volumes.geometry import SliceGeometry, slice_geometry
from poscon.volumes.label_maps import read_label_header, read_labels
from poscon.volumes.scan import ScanHeader, read_scan, scan_suffix
from poscon.volumes.series import Series, Source
from poscon.volumes.slabs import slabs


@dataclass(frozen=True)
class Job:
    """What every case of one ``prepare`` has in common.

    Attributes:
        root: folder of the scans.
        store: folder to write.
        preparation: what is done to every volume.
        scheme: what label values mean.
        nonempty: whether only slices with foreground count as labelled.
    """

    root: Path
    store: Path
    preparation: Preparation
    scheme: LabelScheme
    nonempty: bool = False


def prepare_image(
    volumes: Sequence[np.ndarray],
    geometry: SliceGeometry,
    spacing: float | None,
    modalities: Sequence[str | None],
    where: str,
    dtype: type[np.floating] = np.float32,
) -> tuple[np.ndarray, tuple[IntensityRecord, ...]]:
    """All channels of an image as the network sees them; ``prepare`` and ``predict`` share it.

    The slices are made part by part. So this takes little memory beside the volumes and the result.

    Args:
        volumes: each channel, (X, Y, Z) in file order.
        geometry: how to slice them.
        spacing: mm per pixel in plane, or None: as scanned.
        modalities: ``"CT"`` or ``"MR"`` of each channel, or None: by its values.
        where: the scan, for an error message.
        dtype: type of the result.

    Returns:
        (slices, channels, rows, columns), each channel normalised by itself and then resampled; and
        the record of each channel's normalisation.
    """
    size = stored_size(geometry, spacing, where)
    image = np.empty((geometry.stack_shape[0], len(volumes), *size), dtype)
    records = []
    for channel, (volume, modality) in enumerate(zip(volumes, modalities, strict=True)):
        looks_like = guess_modality(volume)
        stack = geometry.to_stack(volume)
        if abs(stack.strides[2]) != stack.itemsize:  # it is read several times
            stack = np.ascontiguousarray(stack)
        intensity = intensity_of(stack, modality or looks_like)
        for part in slabs(stack.shape):
            image[part, channel] = resample_images(normalised(stack[part], intensity), size)
        records.append(IntensityRecord(**asdict(intensity), looks_like=looks_like))
    return image, tuple(records)


def stored_size(geometry: SliceGeometry, spacing: float | None, where: str) -> tuple[int, int]:
    """Rows and columns of the slices as the network sees them.

    Args:
        geometry: how the volume is sliced.
        spacing: mm per pixel in plane, or None: as scanned.
        where: the scan, for an error message.

    Raises:
        PosconError: nothing would be left of the slices, or more than any memory holds.
    """
    _, rows, columns = geometry.stack_shape
    return resampled_size((rows, columns), geometry.spacing[1:], spacing, where)


def stated_spacing(case: Case, preparation: Preparation) -> Spacing | None:
    """The voxel size in mm along the files' axes that replaces the headers', or None."""
    return preparation.source_spacing or case.spacing


def case_geometry(
    header: ScanHeader, preparation: Preparation, *, reverse: bool = False
) -> SliceGeometry:
    """How a case's volume is sliced; the header was read with :func:`stated_spacing`."""
    x, y, z, *_ = header.shape
    return slice_geometry((x, y, z), header.affine, plane=preparation.plane, reverse=reverse)


def check_same_grid(
    path: Source | LabelSource, image: Source, header: ScanHeader, spacing: Spacing | None = None
) -> None:
    """Refuse a label map or a channel that is no 3-D volume on the grid of its image.

    Args:
        path: the file, a folder with one mask per organ, or DICOM objects with structures; may be
            the image itself.
        image: the case's (first) image file.
        header: header of the image.
        spacing: mm along the files' axes where it is stated because the headers are wrong.

    Raises:
        PosconError: it is not.
    """
    other = header
    if path != image:
        assert not isinstance(path, Series), "a DICOM series has one channel"
        other = read_label_header(path, spacing=spacing)
    if len(other.shape) > 3 and path == image:
        raise PosconError(
            f"{path}: shape {other.shape}, a 3-D volume was expected; "
            "write it as 3-D or leave it out"
        )
    refuse_other_grid(path, other, image.name, header.shape, header.affine)


def refuse_other_grid(
    path: Source | LabelSource,
    header: ScanHeader,
    image: str,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> None:
    """Refuse a file that does not lie on the grid of an image.

    Args:
        path: the file.
        header: its header.
        image: name of the image's file, for the message.
        shape: shape of the image, (X, Y, Z) or (X, Y, Z, frames).
        affine: (4, 4), affine of the image.

    Raises:
        PosconError: its shape or its place differs.
    """
    if not same_place(shape, affine, header.affine) and same_voxels(
        shape, affine, header.shape, header.affine
    ):
        raise PosconError(
            f"{path}: has the voxels of its image {image}, but stores them along other axes or the "
            "other way round; save it in the orientation of the image"
        )
    if header.shape != shape[:3]:
        raise PosconError(
            f"{path}: shape {header.shape} differs from that of its image "
            f"{image}, {shape[:3]}; fix or leave out the pair"
        )
    if not same_place(shape, affine, header.affine):
        apart = apart_mm(shape, affine, header.affine)
        raise PosconError(
            f"{path}: lies up to {apart:.3g} mm from its image {image} "
            "(the affines differ); fix or leave out the pair"
        )


def read_case_volumes(case: Case, spacing: Spacing | None = None) -> list[np.ndarray]:
    """(X, Y, Z) voxels of every channel of a case, checked; a frame of a 4-D series has one.

    Args:
        case: the case.
        spacing: mm along the files' axes where it is stated because the headers are wrong.
    """
    files = {file: read_scan(file, spacing=spacing).data for file in case.image_files}
    return [one_volume(files[channel.file], case, channel) for channel in case.all_channels]


def one_volume(data: np.ndarray, case: Case, channel: Channel) -> np.ndarray:
    """(X, Y, Z) voxels of one channel out of its file's data, checked.

    Raises:
        PosconError: its values cannot be normalised, or are those of a label map.
    """
    where = str(channel.file)
    if channel.index is not None and data.ndim == 4:
        data = data[..., channel.index]
        where = f"{channel.file} ({f'channel {channel.index}' if case.channels else case.id})"
    check_voxels(data, where=where)
    return data


LARGE_BYTES = 2**26
"""Of a case of which more is stored, no memory is kept for the next one."""
SPARE_BYTES = 2**28
"""What one part of a volume takes while it is worked on, and what a network takes."""


def bytes_read(case: Case, header: ScanHeader) -> int:
    """About how many bytes the files of a case take in memory, and what is worked on of them.

    Args:
        case: the case.
        header: header of its (first) file.
    """
    return SPARE_BYTES + len(case.image_files) * header.voxel_bytes * math.prod(header.shape)


def bytes_to_prepare(case: Case, header: ScanHeader, preparation: Preparation) -> int:
    """About how many bytes of memory a case takes at once while it is prepared.

    Args:
        case: the case.
        header: header of its (first) file.
        preparation: what is done to it.
    """
    geometry = case_geometry(header, preparation)
    rows, columns = stored_size(geometry, preparation.spacing, str(case.image))
    stored = 2 * geometry.stack_shape[0] * rows * columns * len(case.all_channels)
    # a label map has two bytes a voxel at most, nearly always, and its classes have one
    labels = SPARE_BYTES + 3 * math.prod(header.shape[:3])
    return stored + max(bytes_read(case, header), 0 if case.label is None else labels)


def prepare_case(job: Job, case: Case, header: ScanHeader, reverse: bool) -> None:
    """Write one case's folder; complete or absent."""
    check_room(bytes_to_prepare(case, header, job.preparation), str(case.image))
    geometry = case_geometry(header, job.preparation, reverse=reverse)
    spacing = stated_spacing(case, job.preparation)
    volumes = read_case_volumes(case, spacing)
    modalities = [job.preparation.modality or channel.modality for channel in case.all_channels]
    image, intensities = prepare_image(
        volumes, geometry, job.preparation.spacing, modalities, str(case.image), np.float16
    )
    pixels = pixels_sha256(volumes, header.affine)
    del volumes  # the label map needs the room
    slices, _, rows, columns = image.shape
    label = _prepare_label(job, case, geometry, (rows, columns))
    class_voxels, labelled_slices = None, None
    if label is not None:
        class_voxels, labelled_slices = count_labels(label, len(job.scheme.classes))
    mm, *in_plane_mm = geometry.spacing
    record = CaseRecord(
        id=case.id,
        subject=case.subject,
        frame=case.frame,
        channels=tuple(
            ChannelRecord(relative(channel.file, job.root), channel.index, intensity)
            for channel, intensity in zip(case.all_channels, intensities, strict=True)
        ),
        source_label=(
            None if case.label is None or label is None else _label_source(case, job.root)
        ),
        frame_index=case.frame_index,
        phase=case.phase,
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
        class_voxels=class_voxels,
        pixels_sha256=pixels,
        stored_sha256=slices_sha256(image, label),
        labelled_slices=labelled_slices,
        affine=tuple(map(tuple, header.affine.tolist())),
    )
    with complete(job.store / "cases" / case.id) as part:
        part.mkdir()
        np.save(part / "image.npy", image)
        if label is not None:
            np.save(part / LABEL_FILE, label)
        write_case(part / "case.json", record)
    if image.nbytes > LARGE_BYTES:
        del image, label
        give_back_memory()


def _prepare_label(
    job: Job, case: Case, geometry: SliceGeometry, size: tuple[int, int]
) -> np.ndarray | None:
    """The class indices of a case as stored; None if no voxel is labelled.

    Args:
        job: what all cases have in common.
        case: the case.
        geometry: how to slice it.
        size: rows and columns of the stored slices.

    Returns:
        (slices, rows, columns) uint8, ``IGNORE`` where a voxel is not labelled.
    """
    if case.label is None:
        return None
    spacing = stated_spacing(case, job.preparation)
    stack = class_stack(case.label, job.scheme, geometry, spacing)
    labelled: LabelledSlices | None = NONEMPTY if job.nonempty else case.labelled_slices
    if labelled is not None:
        stack = only_slices(stack, labelled, backwards=geometry.flips[0])
    label = resample_classes(stack, size, len(job.scheme.classes) + 1)
    return None if (label == IGNORE).all() else label


def class_stack(
    path: LabelSource, scheme: LabelScheme, geometry: SliceGeometry, spacing: Spacing | None
) -> np.ndarray:
    """A label map as slices of class indices, not yet resampled.

    Args:
        path: the label map.
        scheme: what its values mean.
        geometry: how to slice it.
        spacing: mm along the file's axes where it is stated because the headers are wrong.

    Returns:
        (slices, rows, columns) uint8, ``IGNORE`` where a voxel is not labelled.
    """
    values = read_labels(path, scheme, spacing=spacing).data
    return geometry.to_stack(scheme.to_classes(values, where=str(path), ignorable=True))


def count_labels(
    label: np.ndarray, n_classes: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """What the record of a labelled case says of its label map.

    Args:
        label: (slices, rows, columns) uint8, class indices as stored.
        n_classes: number of foreground classes.

    Returns:
        The voxels of each foreground class, and the numbers of the labelled slices; None: all.
    """
    counts = np.zeros(IGNORE + 1, np.int64)
    for part in slabs(label.shape):
        counts += np.bincount(label[part].ravel(), minlength=IGNORE + 1)
    voxels = counts[1 : n_classes + 1]
    labelled = (label != IGNORE).any(axis=(1, 2))
    slices = None if labelled.all() else tuple(np.flatnonzero(labelled).tolist())
    return tuple(voxels.tolist()), slices


def pixels_sha256(volumes: Sequence[np.ndarray], affine: np.ndarray) -> str:
    """Hash of a scan's voxels in canonical orientation: the same in any order of the axes.

    Args:
        volumes: the channels, (X, Y, Z) each, on one grid.
        affine: (4, 4), from voxels to mm.
    """
    digest = hashlib.sha256()
    for volume in volumes:
        x, y, z = volume.shape
        canonical = slice_geometry((x, y, z), affine, plane="axial").to_stack(volume)
        digest.update(str(canonical.shape).encode())
        for part in slabs(canonical.shape):
            digest.update(np.ascontiguousarray(canonical[part], dtype="<f4").data)
    return digest.hexdigest()


def finished(store: Path, case: Case) -> CaseRecord | None:
    path = store / "cases" / case.id / "case.json"
    return read_case(path) if path.is_file() else None


def relative(path: Source, root: Path) -> str:
    """The path of a file in a folder; of a DICOM series its name, as a path may name people."""
    if isinstance(path, Series):
        return path.name
    return printable(Path(os.path.relpath(path, root)).as_posix())  # a table may name any folder


def _label_source(case: Case, root: Path) -> str:
    """The file of a label map as the store names it; that of a DICOM series without its folder."""
    assert case.label is not None
    if isinstance(case.label, Drawing):
        return f"{case.image.name}_seg.dcm"
    if isinstance(case.image, Series):
        return f"{case.image.name}_seg{scan_suffix(case.label)}"
    return relative(case.label, root)
