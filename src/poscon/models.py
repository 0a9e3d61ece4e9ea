"""Trained networks with all that they need: a scan in, its label map or its features out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from poscon.scan_preparation import PreparedScan, ScanPreparer
from poscon.store.manifest import ClassRecord
from poscon.store.preparation import stated_spacing
from poscon.store.training_range import SpacingFrom
from poscon.training.average_views import VIEWS
from poscon.training.inference import (
    channels_last,
    choose_device,
    largest_component,
    network_inputs,
    predicted_classes,
)
from poscon.training.probes import frozen, pooled_features
from poscon.training.run import MODEL, part_file, refuse_no_run
from poscon.volumes.affine import Spacing
from poscon.volumes.case import Case, label_scheme
from poscon.volumes.ranges import Range, empty_outside
from poscon.volumes.scan import label_image, read_scan, without_voxels


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

    def label_map(
        self,
        prepared: PreparedScan,
        classes: Sequence[np.ndarray],
        ranges: Mapping[str, Range] | None = None,
    ) -> np.ndarray:
        """Label values on the scan's own grid, (X, Y, Z) or (X, Y, Z, frames).

        Args:
            prepared: the scan.
            classes: see :meth:`predict_classes`.
            ranges: the range of each class in slices of the file. The class is removed outside it,
                after small components: the rest of a structure may be smaller than another.
        """
        if self.keep_largest_component:
            classes = [largest_component(volume) for volume in classes]
        if ranges:
            names, geometry = self.scheme.names, prepared.geometry
            classes = [empty_outside(volume, ranges, names, geometry) for volume in classes]
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


def _run_folder(run: Path | str, command: str) -> Path:
    path = Path(run)
    if not path.is_dir():
        raise PosconError(f"{path}: no such folder; give that of a run of poscon {command}")
    refuse_no_run(path, command)
    return path
