"""What a MONAI Bundle needs beside MONAI's own parts. The bundle has this source as a file.

A volume comes in canonical orientation, (channels, slices, rows, columns), see
:mod:`poscon.exports.monai`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor, nn
from torch.nn.functional import pad

from poscon.store.intensity import guess_modality, normalise
from poscon.store.resample import resample_images, resample_probabilities, resampled_size
from poscon.training.inference import largest_component

BATCH = 8
"""Slices that go through the network at once."""


class Normalised(MapTransform):
    """Each channel of a volume with mean 0 and standard deviation 1; CT is clipped before.

    Args:
        keys: of the volumes.
        modalities: ``"CT"`` or ``"MR"`` of each channel, or None: by its values.
    """

    def __init__(self, keys: Sequence[str], modalities: Sequence[str | None]) -> None:
        super().__init__(keys)
        self.modalities = modalities

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            volume = found[key]
            channels = [np.ascontiguousarray(channel) for channel in volume.cpu().numpy()]
            normal = [
                normalise(channel, modality or guess_modality(channel))[0]
                for channel, modality in zip(channels, self.modalities, strict=True)
            ]
            found[key] = MetaTensor(
                torch.from_numpy(np.stack(normal)),
                meta=volume.meta,
                applied_operations=volume.applied_operations,
            )
        return found


class SliceBySlice(Inferer):
    """A 2-D network over the slices of a volume: resampled, padded, segmented, and back.

    Args:
        spacing: mm per pixel for the network, or None: as scanned.
        size: least extent of its inputs in pixels.
        stride: their extents are a multiple of this.
        context: neighbouring slices on each side that are channels too.
    """

    def __init__(self, spacing: float | None, size: int, stride: int, context: int) -> None:
        super().__init__()
        self.spacing, self.size, self.stride, self.context = spacing, size, stride, context

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """(1, channels, slices, rows, columns) -> probabilities (1, classes, slices, ...)."""
        affine = inputs.affine.reshape(-1, 4, 4)[0] if isinstance(inputs, MetaTensor) else None
        spacing = (1.0, 1.0, 1.0) if affine is None else affine[:3, :3].norm(dim=0).tolist()
        volume = inputs[0].cpu().numpy()
        grid = volume.shape[2:]
        pixels = resampled_size(grid, (spacing[1], spacing[2]), self.spacing, "the scan")
        stack = torch.from_numpy(np.stack([resample_images(c, pixels) for c in volume], axis=1))
        margins = []
        for length in reversed(pixels):  # pad takes the last axis first
            extra = max(self.size, -(-length // self.stride) * self.stride) - length
            margins += [extra // 2, extra - extra // 2]
        padded = pad(stack, margins)
        numbers = torch.arange(len(stack))[:, None] + torch.arange(-self.context, self.context + 1)
        around = numbers.clamp(0, len(stack) - 1)
        left, _, top, _ = margins
        device = next(network.parameters()).device
        found = []
        for part in around.split(BATCH):
            logits = network(padded[part].flatten(1, 2).to(device))
            own = logits[..., top : top + pixels[0], left : left + pixels[1]].float()
            found.append(resample_probabilities(own.softmax(1), grid).cpu())
        return torch.cat(found).transpose(0, 1)[None]


class Classes(MapTransform):
    """Label values from probabilities, (classes, ...) -> (1, ...).

    Args:
        keys: of the probabilities.
        values: label value of each class, the background first.
        keep_largest: whether all but the largest connected structure is removed.
    """

    def __init__(self, keys: Sequence[str], values: Sequence[int], keep_largest: bool) -> None:
        super().__init__(keys)
        self.values, self.keep_largest = values, keep_largest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            classes = found[key].max(0).indices.cpu().numpy()
            if self.keep_largest:
                classes = largest_component(classes)
            labels = torch.from_numpy(np.asarray(self.values)[classes])[None]
            found[key] = MetaTensor(labels, meta=found["image"].meta)
        return found


def segment(
    scans: Iterable[str],
    preprocessing: Callable[[Any], Any],
    network: nn.Module,
    inferer: SliceBySlice,
    postprocessing: Callable[[Any], Any],
) -> None:
    """Segment scans, one after the other. What follows the network writes the label maps."""
    network.eval()
    for scan in scans:
        data = preprocessing({"image": scan})
        data["pred"] = inferer(data["image"][None], network)[0]
        postprocessing(data)
