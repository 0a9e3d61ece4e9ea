"""What goes into a training step and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class SliceBatch:
    """A batch of slices.

    Attributes:
        images: (B, in_channels, canvas, canvas) float, slices cut or padded to one canvas that is
            larger than what the network sees, so that a view can be turned without losing its
            corners. Channel c of the slice at offset o from -k to k (the context) is input
            channel (o + k) * channels + c.
        positions: (B,) float, each slice's position, of the kind that the setting ``position``
            says (see :mod:`poscon.positions`).
        phases: (B,) float from 0 to just below 1, the time of each slice as a share of a cycle;
            None: some volume of the training has none.
        labels: (B, canvas, canvas) uint8 class indices, ``IGNORE`` where a pixel is not labelled
            (see :mod:`poscon.volumes.case`), or None.
        slice_ids: (B,) int64, each slice's number among all slices of the training.
        volumes: (B,) int64, the number of the volume that it is from.
        unlabelled: (U,) slices without labels, for methods that use them.
        possible: (B, classes) bool, the classes that a slice without labels may have by the ranges
            of its case, background first; None: no case of the training has ranges.
    """

    images: Tensor
    positions: Tensor
    labels: Tensor | None = None
    slice_ids: Tensor | None = None
    volumes: Tensor | None = None
    unlabelled: "SliceBatch | None" = None
    possible: Tensor | None = None
    phases: Tensor | None = None

    def to(self, device: torch.device | str) -> "SliceBatch":
        """The batch as a method is given it: on a device, images in float32.

        A GPU copies :meth:`pinned` memory by itself; nothing waits for it.
        """
        moved = self._map(lambda values: values.to(device, non_blocking=True))
        return moved._map(lambda values: values.float() if values.is_floating_point() else values)

    def pinned(self) -> "SliceBatch":
        """The batch in pinned memory, as far as it is not on a GPU already."""
        return self._map(lambda values: values.pin_memory() if values.is_cpu else values)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "SliceBatch":
        parts: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.unlabelled is not None:
            parts["unlabelled"] = self.unlabelled._map(change)
        return replace(self, **parts)


@dataclass
class Step:
    """The outcome of one training step.

    Attributes:
        loss: scalar to minimise.
        chance: the loss of a network that knows nothing, or None where that is not defined. What
            is computed of the batch is a tensor, because reading a number would wait for a GPU.
        floor: about the least that the loss can come to on this batch, or None where that is not
            defined. It is a tensor for the same reason.
        logs: further scalars for metrics.csv.
    """

    loss: Tensor
    chance: float | Tensor | None = None
    floor: float | Tensor | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)
