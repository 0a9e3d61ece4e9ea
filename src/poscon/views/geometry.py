"""The geometry of views. The parameters of each transform are drawn apart; the warp is one.

Coordinates are (x, y), x along the last axis. The unit is half of the view's extent, and the origin
is the middle of the view and of the canvas. The affine transforms become one matrix and the
elastic displacement is added, so that pixels are interpolated once.
"""

import math
from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from poscon.views.settings import ViewSettings
from poscon.views.transform import (
    Parameters,
    Transform,
    add_unless_neutral,
    chance,
    generator_of,
    uniform,
)


class GeometryTransform(Transform):
    """A change of where the pixels of a view lie.

    Attributes:
        only_warped: whether views that are not warped (``warp_probability``) are left as they are.
    """

    only_warped: ClassVar[bool]


class AffineTransform(GeometryTransform):
    """A geometric transform that is an affine map of points."""

    @abstractmethod
    def apply(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Follow the affine map ``matrix`` (B, 2, 3) by this transform; the same shape."""


class Mirror(AffineTransform):
    """Flips: p becomes values * p. The parameter is (B, 2): 1 or -1 for x and y."""

    off, neutral, only_warped = False, 1.0, False

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return torch.where(torch.rand(n, 2, generator=generator) < 0.5, -1.0, 1.0)

    def apply(self, matrix: Tensor, values: Tensor) -> Tensor:
        return matrix * values[:, :, None]


class Scale(AffineTransform):
    """Zoom about the middle: p becomes p / values.

    The parameter is the factor (B,). Above 1, things look larger.
    """

    off, neutral, only_warped = (1.0, 1.0), 1.0, True

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return uniform(*settings.scale, (n,), generator)

    def apply(self, matrix: Tensor, values: Tensor) -> Tensor:
        return matrix / values[:, None, None]


class Rotation(AffineTransform):
    """Rotation about the middle. The parameter is the angle (B,) in radians, from x to y."""

    off, neutral, only_warped = 0, 0.0, True

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return uniform(-1, 1, (n,), generator) * math.radians(settings.rotation)

    def apply(self, matrix: Tensor, values: Tensor) -> Tensor:
        cos, sin = values.cos()[:, None], values.sin()[:, None]
        x, y = matrix.unbind(1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)


class Shift(AffineTransform):
    """Translation: p becomes p + values. The parameter is (B, 2), in half extents of the view."""

    off, neutral, only_warped = 0, 0.0, False

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return uniform(-1, 1, (n, 2), generator) * settings.shift * 2

    def apply(self, matrix: Tensor, values: Tensor) -> Tensor:
        return torch.cat([matrix[..., :2], matrix[..., 2:] + values[:, :, None]], dim=2)


class Elastic(GeometryTransform):
    """A smooth random displacement, added after the affine transforms.

    The parameter is (B, 2, P, P): the displacement along x and y at P x P control points, from
    corner to corner of the view, in units of half of the view's extent. Between control points it
    is interpolated by cubic convolution.
    """

    off, neutral, only_warped = 0, 0.0, True

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        points = settings.elastic_points
        field = torch.randn(n, 2, points, points, generator=generator)
        return field * settings.elastic * 2


AFFINE: dict[str, AffineTransform] = {
    "mirror": Mirror(),
    "scale": Scale(),
    "rotation": Rotation(),
    "shift": Shift(),
}
"""From the view to the slice, in this order."""

GEOMETRY: dict[str, GeometryTransform] = {**AFFINE, "elastic": Elastic()}


def draw_geometry(n: int, settings: ViewSettings, seed: int) -> Parameters:
    """Draw the parameters of all geometric transforms that are on."""
    warped = chance(n, settings.warp_probability, generator_of(seed, "warp"))
    drawn: Parameters = {}
    for name, transform in GEOMETRY.items():
        if getattr(settings, name) == transform.off:
            continue
        values = transform.draw(n, settings, generator_of(seed, name))
        if transform.only_warped:
            rows = warped.view(-1, *[1] * (values.dim() - 1))
            values = torch.where(rows, values, transform.neutral)
        add_unless_neutral(drawn, name, values, transform.neutral)
    return drawn


def affine_matrix(geometry: Parameters, n: int) -> Tensor:
    """(n, 2, 3): all affine transforms one after another, from the view to the slice."""
    matrix = torch.eye(2, 3).expand(n, 2, 3)
    for name, transform in AFFINE.items():
        if name in geometry:
            matrix = transform.apply(matrix, geometry[name])
    return matrix


def sampling_grid(
    geometry: Parameters, n: int, size: int, canvas: int, device: torch.device
) -> Tensor:
    """Where the pixels of ``n`` views lie on the canvas.

    Args:
        geometry: parameters of ``n`` views.
        n: number of views.
        size: extent of the views in pixels.
        canvas: extent of the slices in pixels.
        device: where the grid is needed.

    Returns:
        (n, size, size, 2), x before y, in the units of ``torch.nn.functional.grid_sample``.
    """
    # Along one axis the grid is a sum of a few functions: 1, the coordinate and, with elastic
    # displacement, one spline for each control point. So the whole grid is one product of small
    # matrices.
    axis = (torch.arange(size) * 2 + 1) / size - 1
    along = torch.stack([torch.ones(size), axis], dim=1)
    displacement = geometry.get("elastic")
    if displacement is not None:
        along = torch.cat([along, _spline(displacement.shape[-1], size)], dim=1)
    n_functions = along.shape[1]
    weight = torch.zeros(n, n_functions, n_functions, 2)  # along y, along x, of (x, y)
    matrix = affine_matrix(geometry, n)
    weight[:, 0, 0], weight[:, 0, 1], weight[:, 1, 0] = matrix[..., [2, 0, 1]].unbind(-1)
    if displacement is not None:
        weight[:, 2:, 2:] = displacement.movedim(1, -1)
    if device.type == "cuda":  # to copy 64 KiB or more of other memory would wait for the GPU
        weight = weight.pin_memory()
    along, weight = (part.to(device, non_blocking=True) for part in (along, weight))
    rows = torch.einsum("xq,npqd->npxd", along, weight).reshape(n, n_functions, 2 * size)
    return (along * (size / canvas) @ rows).reshape(n, size, size, 2)


@lru_cache
def _spline(points: int, size: int) -> Tensor:
    """(size, points): cubic interpolation from control points to pixels, along one axis."""
    columns = torch.eye(points)[None, None]
    return interpolate(columns, size=(size, points), mode="bicubic", align_corners=True)[0, 0]


def canvas_size(size: int, settings: ViewSettings) -> int:
    """Extent of the canvas in pixels that a rotated and shifted view needs to have its corners.

    Args:
        size: extent of the views in pixels.
        settings: the largest rotation and the largest shift count.
    """
    angle = math.radians(min(settings.rotation, 45.0))
    reach = (math.cos(angle) + math.sin(angle)) + 2 * settings.shift
    return 2 * math.ceil(size * reach / 2)
