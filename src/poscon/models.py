"""A trained network with all that it needs: scans in, label maps out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from poscon.errors import PosconError
from poscon.leakage import read_entries, roles_by_pixels
from poscon.networks.unet import UNet
from poscon.networks.weights import load_by_name, network_settings, read_weights
from poscon.store.intensity import check_voxels, guess_modality
from poscon.store.preparation import case_geometry, pixels_sha256, prepare_stack
from poscon.store.store import ClassRecord, Preparation
from poscon.training.inference import (
    channels_last,
    choose_device,
    largest_component,
    predicted_classes,
)
from poscon.training.run import MODEL
from poscon.volumes.case import Case, LabelClass, LabelScheme
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.scan import Scan, ScanHeader, read_scan


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
        self.scheme = LabelScheme(tuple(LabelClass(c.name, c.values) for c in self.classes))
        self.network = UNet(settings, len(self.classes) + 1)
        load_by_name(self.network, tensors, where=str(path))
        channels_last(self.network.to(choose_device(device))).eval()

    def read(self, case: Case, header: ScanHeader) -> "PreparedScan":
        """A scan, prepared for the network.

        Raises:
            PosconError: a scan that cannot be used.
        """
        scan = read_scan(case.image)
        volumes = [scan.data]
        if scan.data.ndim == 4:
            frames = range(scan.data.shape[3]) if case.frame_index is None else [case.frame_index]
            volumes = [scan.data[..., frame] for frame in frames]
        geometry = case_geometry(case, header, self.preparation)
        prepared = PreparedScan(case, scan, geometry)
        for volume in volumes:
            check_voxels(volume, where=str(case.image))
            prepared.roles |= set(self.known.get(pixels_sha256(volume, header.affine), ()))
            modality = self.modality or case.modality or guess_modality(volume)
            stack, _ = prepare_stack(volume, geometry, self.preparation.spacing, modality)
            prepared.stacks.append(torch.from_numpy(stack))
        return prepared

    def segment(self, prepared: "PreparedScan") -> list[np.ndarray]:
        """Classes of each of the scan's volumes, (slices, rows, columns) as scanned, uint8."""
        if prepared.roles:
            self.seen[prepared.case.id] = tuple(sorted(prepared.roles))
        _, rows, columns = prepared.geometry.stack_shape
        return [
            predicted_classes(self.network, stack, self.size, (rows, columns))
            for stack in prepared.stacks
        ]

    def label_map(self, prepared: "PreparedScan", classes: Sequence[np.ndarray]) -> np.ndarray:
        """Label values on the scan's own grid, (X, Y, Z) or (X, Y, Z, frames)."""
        if self.keep_largest_component:
            classes = [largest_component(volume) for volume in classes]
        maps = [self.scheme.to_values(prepared.geometry.to_volume(volume)) for volume in classes]
        several = prepared.scan.data.ndim == 4 and prepared.case.frame_index is None
        return np.stack(maps, axis=-1) if several else maps[0]


@dataclass
class PreparedScan:
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
