"""Views: batched, seeded random augmentation on the device that the batch is on.

:func:`draw_view` draws parameters from a seed, :func:`apply_view` applies given parameters. Each
transform draws from its own named stream of the seed (:mod:`poscon.seeds`), so to switch one on or
off changes nothing for the others. All geometry (:mod:`poscon.views.geometry`) is one warp with one
interpolation. Changes of intensity (:mod:`poscon.views.intensity`) come after it.

To add a transform, write a setting in :class:`ViewSettings`, a class with ``draw`` and ``apply`` in
one of the two modules, and a row in its table ``AFFINE`` or ``INTENSITY``, at the place where it is
to be applied. Setting and row have the same name.
"""

from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from poscon.seeds import stream
from poscon.views.geometry import canvas_size, draw_geometry, sampling_grid
from poscon.views.intensity import apply_intensity, draw_intensity
from poscon.views.settings import ViewSettings
from poscon.views.transform import Parameters

__all__ = [
    "View",
    "ViewMaker",
    "ViewSettings",
    "apply_view",
    "apply_view_to_labels",
    "canvas_size",
    "draw_view",
    "with_intensity",
]


@dataclass
class View:
    """The parameters of B views, on the CPU.

    Attributes:
        geometry: parameters by the name of the transform, see
            :data:`poscon.views.geometry.GEOMETRY` for their shapes and units.
        intensity: parameters (B, C) for C image channels by the name of the transform, see
            :data:`poscon.views.intensity.INTENSITY`.
        seed: what is drawn for each pixel, where the images are, follows from it.
    """

    geometry: Parameters
    intensity: Parameters
    seed: int


def draw_view(n: int, settings: ViewSettings, seed: int, channels: int = 1) -> View:
    """Draw the parameters of ``n`` views. The same seed gives the same views on every device.

    Args:
        n: number of views.
        settings: how large the changes are.
        seed: every transform draws from its own stream of it.
        channels: number of image channels, each with its own changes of intensity.
    """
    return View(
        geometry=draw_geometry(n, settings, seed),
        intensity=draw_intensity(n, channels, settings, seed),
        seed=seed,
    )


def with_intensity(view: View, other: View) -> View:
    """The geometry of one view with the intensity of another: the same pixels look different."""
    return replace(other, geometry=view.geometry)


def apply_view(images: Tensor, view: View, size: int) -> Tensor:
    """Make views of slices.

    Args:
        images: (B, k * C, canvas, canvas): k neighbouring slices of C image channels. Channel c of
            neighbour j has the index j * C + c. Outside the canvas is 0.
        view: the parameters of B views.
        size: extent of the views in pixels.

    Returns:
        (B, k * C, size, size).
    """
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 cannot tell pixels apart
        grid = sampling_grid(view.geometry, len(images), size, images.shape[-1], images.device)
        warped = grid_sample(images, grid.to(images.dtype), align_corners=False)
        return apply_intensity(warped, view.intensity, view.seed)


def apply_view_to_labels(labels: Tensor, view: View, size: int) -> Tensor:
    """Move labels as :func:`apply_view` moves images. The nearest pixel is taken.

    Args:
        labels: (B, canvas, canvas) class indices.
        view: the parameters of B views. Their changes of intensity have no effect.
        size: extent of the views in pixels.

    Returns:
        (B, size, size) int64; 0 outside the canvas.
    """
    with torch.autocast(labels.device.type, enabled=False):
        grid = sampling_grid(view.geometry, len(labels), size, labels.shape[-1], labels.device)
        warped = grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped[:, 0].long()


class ViewMaker:
    """Makes views of a fixed size by fixed settings. It is all that a method knows of views.

    Args:
        settings: how views differ from their slices.
        size: extent of the views in pixels.
        channels: number of image channels. Images have k times as many input channels, where k is
            the number of neighbouring slices.
    """

    def __init__(self, settings: ViewSettings, size: int, channels: int = 1) -> None:
        self.settings = settings
        self.size = size
        self.channels = channels

    def with_settings(self, settings: ViewSettings) -> Self:
        """The same maker with other settings; the canvas must be large enough for them too."""
        other = copy(self)
        other.settings = settings
        return other

    def draw(self, n: int, seed: int, *, view: int = 0) -> View:
        """The parameters of ``n`` views; ``view`` numbers the views of one training step."""
        return draw_view(n, self.settings, stream(seed, "view", view), self.channels)

    def apply(self, images: Tensor, view: View) -> Tensor:
        """:func:`apply_view` at this size."""
        return apply_view(images, view, self.size)

    def apply_to_labels(self, labels: Tensor, view: View) -> Tensor:
        """:func:`apply_view_to_labels` at this size."""
        return apply_view_to_labels(labels, view, self.size)

    def __call__(self, images: Tensor, seed: int, *, view: int = 0) -> Tensor:
        """Draw views and apply them to images (B, k * channels, canvas, canvas).

        Returns:
            (B, k * channels, size, size).
        """
        return self.apply(images, self.draw(len(images), seed, view=view))
