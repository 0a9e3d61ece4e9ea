"""Scans prepared as the scans of a training were, and how they are unlike them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poscon.errors import PosconError
from poscon.progress import console
from poscon.store.manifest import Preparation
from poscon.store.preparation import (
    bytes_read,
    case_geometry,
    check_same_grid,
    one_volume,
    pixels_sha256,
    prepare_image,
    stated_spacing,
    stored_size,
)
from poscon.store.training_range import Difference, SpacingFrom, TrainingRange
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, Channel
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.layouts.dicom import only_series
from poscon.volumes.scan import Scan, ScanHeader, read_scan, scan_in_memory
from poscon.volumes.series import Source

LARGEST_SIZE = 2**14
"""Pixels. No slice has more along an axis."""
UNNAMED = "image"
"""The name of the channel of a data set that gives it none."""


@dataclass
class PreparedScan:
    """A scan as a network takes it.

    Attributes:
        scan: the scan as it was read; of :meth:`Model.read` without its voxels.
        geometry: how each of its volumes is sliced.
        series: whether the scan is a 4-D time series of which all frames are used.
        spacing_from: where its spacing comes from.
        size: rows and columns of the stacks.
        stacks: the slices of each frame, (slices, channels, rows, columns) float32, normalised, at
            the network's spacing.
        pixels: the hash of each frame's pixels, see :func:`poscon.store.preparation.pixels_sha256`.
        modalities: what each channel was normalised as, ``"CT"`` or ``"MR"``.
        differences: how the scan differs from the training data of the network.
    """

    scan: Scan
    geometry: SliceGeometry
    series: bool
    spacing_from: SpacingFrom
    size: tuple[int, int] = (0, 0)
    stacks: list[Tensor] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)
    modalities: tuple[str, ...] = ()
    differences: list[Difference] = field(default_factory=list)

    @property
    def spacing(self) -> Spacing:
        """Mm along (slice, row, column) of the stacks."""
        between, *in_plane = self.geometry.spacing
        _, *before = self.geometry.stack_shape
        row, column = (
            mm * n / after for mm, n, after in zip(in_plane, before, self.size, strict=True)
        )
        return between, row, column


class ScanPreparer:
    """Prepares a scan as the training data of a network were prepared.

    Args:
        about: what the file of the weights says of itself.
        path: that file, for messages.

    Attributes:
        preparation: what is done to a scan: what was done to the training data, but the voxel
            sizes are those of its header.
        training: what the training data were like.
        size: extent of the training crops in pixels.

    Raises:
        PosconError: the file does not say how its data were prepared.
    """

    def __init__(self, about: Mapping[str, Any], path: Path) -> None:
        try:
            trained = Preparation.model_validate(about["preparation"])
            self.size = int(about["size"])
            if not 0 < self.size <= LARGEST_SIZE:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PosconError(
                f"{path}: does not say how its scans were prepared; train it again with this "
                "version of poscon"
            ) from error
        self.preparation = trained.model_copy(update={"source_spacing": None})
        self.training = TrainingRange.read(about, path)

    @property
    def channels(self) -> list[str]:
        """Names of the image channels."""
        return [channel.name for channel in self.training.channels]

    @property
    def modalities(self) -> list[str | None]:
        """``"CT"`` or ``"MR"`` of each channel; None where the training data had both."""
        return [channel.modality for channel in self.training.channels]

    def channel_order(self, names: Sequence[str]) -> list[int] | None:
        """Which channels of a data set the network takes, by their names, in its own order.

        Args:
            names: names of the data set's channels.

        Returns:
            None where the names do not tell: a data set that has none calls its channel ``image``.
        """
        if len(set(names)) < len(names) or not set(self.channels) <= set(names):
            return None
        return [list(names).index(name) for name in self.channels]

    def channel_difference(self, names: Sequence[str]) -> Difference | None:
        """How the channels of a data set differ by name from those that were trained on."""
        known = {*names, *self.channels}.isdisjoint({UNNAMED})
        if not known or list(names) == self.channels:
            return None
        return Difference(
            "channel",
            f"its channel is {', '.join(names)}, that of the training data "
            f"{', '.join(self.channels)}",
        )

    def fitted(self, case: Case, header: ScanHeader) -> Case:
        """The case with the channels that the network takes; a 4-D file may hold them.

        Args:
            case: a scan of a data set, or a single scan.
            header: header of its (first) file.

        Raises:
            PosconError: it has another number of channels, or they lie on different grids.
        """
        whole = len(header.shape) > 3 and case.frame_index is None and not case.channels
        if whole and len(self.channels) > 1:
            channels = tuple(Channel(case.image, number) for number in range(header.shape[3]))
            case = replace(case, channels=channels)
        if len(case.all_channels) != len(self.channels):
            wanted = f"{len(self.channels)} ({', '.join(self.channels)})"
            hint = "choose one with --channel" if len(self.channels) == 1 else "give scans that do"
            raise PosconError(
                f"{case.image}: has {len(case.all_channels)} image channel(s), the model takes "
                f"{wanted}; {hint}"
            )
        for file in case.image_files[1:]:
            check_same_grid(file, case.image, header, stated_spacing(case, self.preparation))
        return case

    def preparation_for(self, header: ScanHeader) -> Preparation:
        """The preparation with the plane in which such a scan is sliced."""
        as_acquired = self.preparation.model_copy(update={"plane": "auto"})
        plane = self.training.plane_for(case_geometry(header, as_acquired).acquired)
        return self.preparation.model_copy(update={"plane": plane})

    def bytes_to_segment(self, case: Case, header: ScanHeader) -> int:
        """About how many bytes of memory a scan takes at once, from its file to its classes.

        Args:
            case: see :meth:`fitted`.
            header: header of its (first) file.
        """
        geometry = case_geometry(header, self.preparation_for(header))
        rows, columns = stored_size(geometry, self.preparation.spacing, str(case.image))
        slices = geometry.stack_shape[0]
        series = len(header.shape) > 3 and not case.channels and case.frame_index is None
        frames = header.shape[3] if series else 1
        stacks = 4 * frames * slices * rows * columns * len(self.channels)
        return bytes_read(case, header) + stacks + frames * math.prod(header.shape[:3])

    def prepare(
        self, files: Mapping[Source, Scan], case: Case, spacing_from: SpacingFrom
    ) -> PreparedScan:
        """Slice, resample and normalise a scan, in the plane of the training data.

        Args:
            files: the files of the case, read with the voxel size that is stated for them.
            case: which channels or which frame of them is meant, see :meth:`fitted`.
            spacing_from: where that voxel size comes from.

        Raises:
            PosconError: a voxel is not finite, or all are the same.
        """
        scan = files[case.image]
        preparation = self.preparation_for(_header(scan))
        geometry = case_geometry(_header(scan), preparation)
        series = scan.data.ndim == 4 and not case.channels and case.frame_index is None
        prepared = PreparedScan(scan, geometry, series, spacing_from)
        frames = [case.all_channels]
        if series:
            numbers = range(scan.data.shape[3])
            frames = [(Channel(case.image, number, case.modality),) for number in numbers]
        for channels in frames:
            volumes = [one_volume(files[c.file].data, case, c) for c in channels]
            prepared.pixels.append(pixels_sha256(volumes, scan.affine))
            stack, intensities = prepare_image(
                volumes,
                geometry,
                self.preparation.spacing,
                [
                    known or channel.modality
                    for known, channel in zip(self.modalities, channels, strict=True)
                ],
                str(case.image),
            )
            prepared.stacks.append(torch.from_numpy(stack))
            prepared.size = (stack.shape[2], stack.shape[3])
            prepared.modalities = tuple(record.modality for record in intensities)
            found = self.training.differences(geometry, spacing_from, preparation, intensities)
            prepared.differences += [d for d in found if d not in prepared.differences]
        return prepared

    def prepare_single(self, scan: Scan, spacing: Spacing | None) -> PreparedScan:
        """:meth:`prepare` for a scan that belongs to no data set.

        Args:
            scan: from :meth:`open_image`.
            spacing: the voxel size in mm that it was opened with, or None.

        Raises:
            PosconError: another number of channels, or voxels that cannot be used.
        """
        case = Case(id=str(scan.path), subject=str(scan.path), image=scan.path)
        case = self.fitted(case, _header(scan))
        # an array has no voxel size but the one that the user states
        stated = spacing or self.preparation.source_spacing or scan.header is None
        prepared = self.prepare({scan.path: scan}, case, "user" if stated else "header")
        say_differences(str(scan.path), prepared.differences)
        return prepared

    def open_image(self, image: Any, spacing: Spacing | None, affine: np.ndarray | None) -> Scan:
        """What a user has in memory, or a file.

        ``spacing`` replaces the voxel size of the header. Where it is not given, the size that was
        stated with the model does, but it does not replace an ``affine``.

        Raises:
            PosconError: an image that cannot be used.
        """
        if spacing is not None:
            spacing = _sizes(spacing)
        stated = spacing or self.preparation.source_spacing
        if isinstance(image, str | Path):
            if affine is not None:
                raise PosconError("affine: has no effect, the file has its own; leave it out")
            path = Path(image)
            source = only_series(path) if path.is_dir() else path
            return read_scan(source, spacing=stated, option="spacing")
        if isinstance(image, np.ndarray):
            if spacing is not None and affine is not None:
                raise PosconError("spacing and affine: both say the voxel size; give one of them")
            stated = spacing
        return scan_in_memory(image, affine, spacing=stated)


def say_differences(name: str, differences: Sequence[Difference]) -> None:
    """One line on stderr for a scan that is unlike the training data."""
    if differences:
        console.print(
            f"warning: {name}: unlike the training data: {'; '.join(d.text for d in differences)}",
            soft_wrap=True,
            markup=False,
        )


def _sizes(spacing: Any) -> Spacing:
    """Three voxel sizes, checked."""
    sizes = np.asarray(spacing)
    if sizes.shape != (3,) or sizes.dtype.kind not in "iuf" or not (sizes > 0).all():
        raise PosconError(f"spacing: must be three positive sizes in mm, not {spacing!r}")
    x, y, z = sizes.tolist()
    return float(x), float(y), float(z)


def _header(scan: Scan) -> ScanHeader:
    return ScanHeader(scan.data.shape, scan.spacing, scan.affine, scan.data.itemsize)
