"""Trained networks with all that they need: a scan in, its label map or its features out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.leakage import read_entries, roles_by_pixels
from poscon.networks.build import build_encoder, build_network
from poscon.networks.weights import (
    load_whole,
    network_settings,
    parse_weights,
    read_weights,
    weights_file,
)
from poscon.progress import console
from poscon.store.manifest import ClassRecord, Preparation
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
from poscon.training.average_views import VIEWS
from poscon.training.inference import (
    channels_last,
    choose_device,
    largest_component,
    network_inputs,
    predicted_classes,
)
from poscon.training.probes import frozen, pooled_features
from poscon.training.run import MODEL, part_file
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, Channel, label_scheme
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.layouts.dicom import only_series
from poscon.volumes.scan import (
    Scan,
    ScanHeader,
    label_image,
    read_scan,
    scan_in_memory,
    without_voxels,
)
from poscon.volumes.series import Source

LARGEST_SIZE = 2**14
"""Pixels. No slice has more along an axis."""
UNNAMED = "image"
"""The name of the channel of a data set that gives it none."""


@checked
def load_model(run: Path | str, device: str = "auto") -> "Model":
    """Load the model of a fine-tuning run.

    Args:
        run: folder of a run of ``poscon finetune``.
        device: ``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        PosconError: no such run, a damaged file, or no such device.
    """
    return Model(run, device)


@checked
def load_encoder(run: Path | str, device: str = "auto") -> "FeatureExtractor":
    """Load the encoder of a pre-training run, or that of a fine-tuned model.

    Args:
        run: folder of a run of ``poscon pretrain`` or ``poscon finetune``.
        device: ``auto`` (a CUDA GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        PosconError: no such run, a damaged file, or no such device.
    """
    return FeatureExtractor(run, device)


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
        rows, columns = stored_size(geometry, self.preparation.spacing)
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


class Model(ScanPreparer):
    """A fine-tuned network with the preparation that its training data had.

    Args:
        run: folder of a fine-tuning run.
        device: ``auto``, ``cpu`` or ``cuda``.
        source_spacing: voxel size in mm along the files' axes; it replaces that of the headers.
        average_views: whether probabilities are averaged over turned and zoomed views of a slice,
            see :mod:`poscon.training.average_views`.

    Attributes:
        classes: the foreground classes, each with its name and its label values; the first value
            is the one that a label map has.
        known: the roles of the scans that took part in the training, by the hash of their pixels.
        sha256: hash of the model's file.
    """

    def __init__(
        self,
        run: Path | str,
        device: str = "auto",
        source_spacing: Spacing | None = None,
        *,
        average_views: bool = False,
    ) -> None:
        self.average_views = average_views
        self.run = _run_folder(run, "finetune")
        self.path = path = self.run / MODEL
        if not path.is_file() and part_file(self.run, "encoder").is_file():
            raise PosconError(f"{run}: a pre-training run; start a poscon finetune --init from it")
        content = weights_file(path)  # read once: the hash is that of the weights that are used
        self.sha256 = hashlib.sha256(content).hexdigest()
        tensors, about = parse_weights(content, path)
        settings = network_settings(about, path)
        super().__init__(about, path)
        try:
            self.keep_largest_component = bool(about.get("keep_largest_component", False))
            self.classes = [ClassRecord.model_validate(c) for c in about["classes"]]
        except (KeyError, TypeError, ValidationError) as error:
            raise PosconError(f"{path}: not a model of poscon finetune ({error})") from error
        if source_spacing is not None:
            self.preparation = self.preparation.model_copy(
                update={"source_spacing": source_spacing}
            )
        self.known = roles_by_pixels(read_entries(self.run))
        self.scheme = label_scheme(((c.name, c.values) for c in self.classes), where=str(path))
        self.network = load_whole(
            lambda: build_network(settings, len(self.classes) + 1), tensors, where=str(path)
        )
        channels_last(self.network.to(choose_device(device))).eval()

    @property
    def views(self) -> int:
        """How many views of a slice its prediction is the mean of."""
        return len(VIEWS) if self.average_views else 1

    def __repr__(self) -> str:
        classes = ", ".join(f"{c.values[0]} = {c.name}" for c in self.classes)
        return f"Model({str(self.run)!r}: {classes})"

    def segment(
        self,
        image: Any,
        spacing: Spacing | None = None,
        affine: np.ndarray | None = None,
    ) -> Any:
        """Segment one scan; a scan that is unlike the training data is one line on stderr.

        Args:
            image: a file; a folder with one DICOM series; a NIfTI image of nibabel; an image of
                SimpleITK; or an array, (X, Y, Z) or (X, Y, Z, frames), in the axis order of
                nibabel. For a model of several image channels the last axis has the channels.
            spacing: voxel size in mm along the three axes. An array needs it, or ``affine``; the
                axes then run towards right, anterior and superior. For a file or an image it
                replaces the voxel size of the header.
            affine: (4, 4), voxel index to mm, RAS+; for an array only.

        Returns:
            The label values on the grid of the scan. An array for an array, an image of nibabel or
            SimpleITK for such an image; for a file, an image of the library that reads its format.

        Raises:
            PosconError: a file that cannot be read, an array without voxel size, a wrong number of
                dimensions or of numbers per voxel, or voxels that are not finite.
        """
        scan = self.open_image(image, spacing, affine)
        prepared = self.prepare_single(scan, spacing)
        labels = self.label_map(prepared, self.predict_classes(prepared))
        return label_image(labels, scan)

    def read(self, case: Case) -> PreparedScan:
        """Read and prepare a scan of a data set, see :meth:`fitted`.

        Raises:
            PosconError: a scan that cannot be used.
        """
        spacing = stated_spacing(case, self.preparation)
        files = {file: read_scan(file, spacing=spacing) for file in case.image_files}
        spacing_from: SpacingFrom = "layout" if case.spacing else "header"
        if self.preparation.source_spacing is not None:
            spacing_from = "user"
        prepared = self.prepare(files, case, spacing_from)
        return replace(prepared, scan=without_voxels(prepared.scan))

    def roles(self, prepared: PreparedScan) -> tuple[str, ...]:
        """The roles that the scan had in the training of the model, in order of the alphabet."""
        return tuple(
            sorted({role for pixels in prepared.pixels for role in self.known.get(pixels, ())})
        )

    def predict_classes(self, prepared: PreparedScan) -> list[np.ndarray]:
        """Class indices of each volume of the scan, (slices, rows, columns) as scanned, uint8."""
        _, rows, columns = prepared.geometry.stack_shape
        return [
            predicted_classes(
                self.network,
                stack,
                self.size,
                (rows, columns),
                average_views=self.average_views,
            )
            for stack in prepared.stacks
        ]

    def label_map(self, prepared: PreparedScan, classes: Sequence[np.ndarray]) -> np.ndarray:
        """Label values on the scan's own grid, (X, Y, Z) or (X, Y, Z, frames)."""
        if self.keep_largest_component:
            classes = [largest_component(volume) for volume in classes]
        maps = [self.scheme.to_values(prepared.geometry.to_volume(volume)) for volume in classes]
        return np.stack(maps, axis=-1) if prepared.series else maps[0]


class FeatureExtractor(ScanPreparer):
    """A trained encoder with the preparation that its training data had.

    Args:
        run: folder of a pre-training run or of a fine-tuning run.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(self, run: Path | str, device: str = "auto") -> None:
        self.run = _run_folder(run, "pretrain or finetune")
        model, path = self.run / MODEL, part_file(self.run, "encoder")
        if model.is_file():
            path = model
        tensors, about = read_weights(path)
        if path == model:
            prefix = "encoder."
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
        settings = network_settings(about, path)
        super().__init__(about, path)
        self.encoder = load_whole(lambda: build_encoder(settings), tensors, where=str(path))
        channels_last(self.encoder.to(choose_device(device))).eval()

    def __repr__(self) -> str:
        return f"FeatureExtractor({str(self.run)!r}: {self.encoder.feature_channels} features)"

    def embed(
        self,
        image: Any,
        spacing: Spacing | None = None,
        affine: np.ndarray | None = None,
    ) -> np.ndarray:
        """The features of every slice of one scan.

        A slice is padded with zeros as in training. Its features are the output of the bottleneck,
        averaged over the slice.

        Args:
            image: one scan, no time series; see :meth:`Model.segment`.
            spacing: voxel size in mm, see there.
            affine: (4, 4), see there.

        Returns:
            (slices, D) float32. The slices lie in the plane of the training data. They run towards
            superior if they are axial, towards anterior if coronal, towards right if sagittal.

        Raises:
            PosconError: an unusable image, see :meth:`Model.segment`, or a 4-D series.
        """
        scan = self.open_image(image, spacing, affine)
        if scan.data.ndim == 4 and len(self.channels) == 1:
            raise PosconError(
                f"{scan.path}: shape {scan.data.shape}, a 4-D series; embed one 3-D frame at a time"
            )
        (stack,) = self.prepare_single(scan, spacing).stacks
        return self.features(stack)

    def features(self, stack: Tensor) -> np.ndarray:
        """:meth:`embed` for a scan that is prepared.

        Args:
            stack: (slices, channels, rows, columns) float32, such as a case of a store.

        Returns:
            (slices, D) float32.
        """
        parts, _, _ = network_inputs(stack, self.encoder, self.size)
        with frozen(self.encoder) as on:
            features = [pooled_features(self.encoder, part.to(on)).cpu() for part in parts]
        return torch.cat(features).float().numpy()


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


def _run_folder(run: Path | str, command: str) -> Path:
    path = Path(run)
    if not path.is_dir():
        raise PosconError(f"{path}: no such folder; give that of a run of poscon {command}")
    return path
