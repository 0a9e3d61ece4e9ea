"""Views: batched, seeded random augmentation on the device that the batch is on.

Each random transform is a pair: :func:`draw_view` draws parameters from a seed, :func:`apply_view`
applies given parameters. All geometry (mirror, turn, scale, shift, elastic) is one warp with one
interpolation; intensity comes after it.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from poscon.seeds import mix_seed
from poscon.settings import Settings


class ViewSettings(Settings):
    """How a view differs from its slice.

    Lengths of the geometry are fractions of the view's extent, so that they mean the same at any
    size. With blur and low resolution these are the transforms of nnU-Net (Isensee et al. 2021).

    Attributes:
        mirror: flip each in-plane axis with probability 1/2.
        warp_probability: how often a view is turned, scaled and deformed; the others are only
            shifted.
        rotation: turn by up to this many degrees either way.
        scale: zoom between these factors.
        shift: move by up to this fraction either way, in views that are not warped too.
        elastic: standard deviation of the elastic displacement.
        elastic_points: control points of the displacement along each axis.
        brightness: standard deviation of an additive offset (images have unit variance).
        contrast: largest relative change of contrast, up or down as a factor.
        gamma: largest change of the exponent, up or down as a factor; applied between the
            smallest and largest value of the view.
        noise: largest standard deviation of additive noise.
        blur: largest standard deviation of a Gaussian blur, in pixels of the view; 0: none.
        low_resolution: largest factor by which a view is made coarser and interpolated back;
            1: none.
        intensity_probability: how often each change of intensity (brightness to low_resolution)
            is made in a view, drawn for each on its own.
    """

    mirror: bool = False
    warp_probability: float = Field(1.0, ge=0, le=1)
    rotation: float = Field(30.0, ge=0, le=180)
    scale: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.3)
    shift: NonNegativeFloat = 0.1
    elastic: NonNegativeFloat = 0.02
    elastic_points: PositiveInt = 6
    brightness: NonNegativeFloat = 0.1
    contrast: NonNegativeFloat = 0.25
    gamma: NonNegativeFloat = 0.4
    noise: NonNegativeFloat = 0.15
    blur: NonNegativeFloat = 0.0
    low_resolution: float = Field(1.0, ge=1)
    intensity_probability: float = Field(1.0, ge=0, le=1)

    @field_validator("scale")
    @classmethod
    def _low_to_high(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("write the smaller factor first")
        return scale


@dataclass
class View:
    """The parameters of B views; see :func:`draw_view` for how they are drawn.

    Attributes:
        matrix: (B, 2, 3), from view to slice, in units of half the view's extent.
        displacement: (B, 2, P, P) at control points, in the same units, or None.
        gain, offset, exponent, noise: (B,) each, intensity.
        noise_seed: for the noise itself, which is drawn where the images are.
        blur: (B,) standard deviation in pixels of the view.
        low_resolution: (B,) factor of coarsening, 1 or more.
    """

    matrix: Tensor
    displacement: Tensor | None
    gain: Tensor
    offset: Tensor
    exponent: Tensor
    noise: Tensor
    noise_seed: int
    blur: Tensor
    low_resolution: Tensor


def draw_view(n: int, settings: ViewSettings, seed: int) -> View:
    """Draw the parameters of ``n`` views. The same seed gives the same views on any device."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    warped = torch.rand(n, generator=generator) < settings.warp_probability
    angle = uniform(-1, 1) * math.radians(settings.rotation) * warped
    low, high = settings.scale
    zoom = torch.where(warped, uniform(low, high), torch.ones(n))
    signs = torch.where(torch.rand(n, 2, generator=generator) < 0.5, -1.0, 1.0)
    if not settings.mirror:
        signs = torch.ones(n, 2)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    shift = uniform(-1, 1, 2) * settings.shift * 2
    matrix = torch.cat([turn * signs[:, None, :], shift[:, :, None]], dim=2)
    displacement = None
    if settings.elastic > 0:
        points = settings.elastic_points
        field = torch.randn(n, 2, points, points, generator=generator)
        displacement = field * settings.elastic * 2 * warped[:, None, None, None]
    gain = _factor(uniform(-1, 1), settings.contrast)
    offset = torch.randn(n, generator=generator) * settings.brightness
    exponent = _factor(uniform(-1, 1), settings.gamma)
    noise = uniform(0, 1) * settings.noise
    noise_seed = int(torch.randint(2**62, (), generator=generator))
    # what was added later is drawn later, so that what was there before stays as it was
    blur = uniform(0, 1) * settings.blur
    low_resolution = 1 / uniform(1 / settings.low_resolution, 1)
    made = torch.rand(6, n, generator=generator) < settings.intensity_probability
    return View(
        matrix=matrix,
        displacement=displacement,
        gain=torch.where(made[0], gain, 1.0),
        offset=offset * made[1],
        exponent=torch.where(made[2], exponent, 1.0),
        noise=noise * made[3],
        noise_seed=noise_seed,
        blur=blur * made[4],
        low_resolution=torch.where(made[5], low_resolution, 1.0),
    )


def with_intensity(view: View, other: View) -> View:
    """The geometry of one view with the intensity of another: the same pixels look different."""
    return replace(other, matrix=view.matrix, displacement=view.displacement)


def _factor(x: Tensor, largest: float) -> Tensor:
    """A factor between 1 / (1 + largest) and 1 + largest, even on a logarithmic scale."""
    return torch.exp(x * math.log1p(largest))


def apply_view(images: Tensor, view: View, size: int) -> Tensor:
    """Make views of slices.

    Args:
        images: (B, 1, canvas, canvas); outside the canvas is 0.
        view: the parameters of B views.
        size: extent of the views in pixels.

    Returns:
        (B, 1, size, size).
    """
    grid = _grid(view, size, images.shape[-1], images.device)
    warped = grid_sample(images, grid.to(images.dtype), mode="bilinear", align_corners=False)
    return _intensity(warped, view)


def apply_view_to_labels(labels: Tensor, view: View, size: int) -> Tensor:
    """The same geometry for class indices (B, canvas, canvas), nearest neighbour.

    Returns:
        (B, size, size) int64; 0 outside the canvas.
    """
    grid = _grid(view, size, labels.shape[-1], labels.device)
    warped = grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped[:, 0].long()


def _grid(view: View, size: int, canvas: int, device: torch.device) -> Tensor:
    """Where each pixel of the view lies on the canvas, (B, size, size, 2), x before y."""
    with torch.autocast(device.type, enabled=False):  # bfloat16 cannot tell pixels apart
        return _float_grid(view, size, canvas, device)


def _float_grid(view: View, size: int, canvas: int, device: torch.device) -> Tensor:
    # Along one axis a grid is a sum of few functions: 1, the coordinate and, if it is elastic,
    # those of the spline. So all of it is one product of small matrices, written once.
    axis = (torch.arange(size) * 2 + 1) / size - 1
    along = torch.stack([torch.ones(size), axis], dim=1)
    if view.displacement is not None:
        along = torch.cat([along, _spline(view.displacement.shape[-1], size)], dim=1)
    n, n_functions = len(view.matrix), along.shape[1]
    weight = torch.zeros(n, n_functions, n_functions, 2)  # along y, along x, of (x, y)
    weight[:, 0, 0], weight[:, 0, 1], weight[:, 1, 0] = view.matrix[..., [2, 0, 1]].unbind(-1)
    if view.displacement is not None:
        weight[:, 2:, 2:] = view.displacement.movedim(1, -1)
    if device.type == "cuda":  # of 64 KiB on it would wait for the GPU, see SliceBatch.pinned
        weight = weight.pin_memory()
    along, weight = (part.to(device, non_blocking=True) for part in (along, weight))
    rows = torch.einsum("xq,npqd->npxd", along, weight).reshape(n, n_functions, 2 * size)
    return (along * (size / canvas) @ rows).reshape(n, size, size, 2)


@lru_cache
def _spline(points: int, size: int) -> Tensor:
    """(size, points): cubic interpolation from control points to pixels, along one axis."""
    columns = torch.eye(points)[None, None]
    return interpolate(columns, size=(size, points), mode="bicubic", align_corners=True)[0, 0]


def _intensity(images: Tensor, view: View) -> Tensor:
    """Gamma, contrast, brightness, noise, blur, low resolution; what is off costs nothing.

    nnU-Net's order is noise, blur, brightness, contrast, low resolution, gamma. Brightness and
    contrast may change places with blur and low resolution, so what differs is that gamma comes
    first and that contrast does not scale the noise.
    """

    def there(values: Tensor) -> Tensor:
        return values.to(images, non_blocking=True)

    def per_view(values: Tensor) -> Tensor:
        return there(values)[:, None, None, None]

    # asked of the parameters, which are on the CPU: a GPU is not waited for
    curved = bool((view.exponent != 1).any())
    scaled = bool((view.gain != 1).any() or (view.offset != 0).any())
    gain, offset = per_view(view.gain), per_view(view.offset)
    if curved:
        low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
        span = (high - low).clamp(min=1e-6)
        images = (images - low).div_(span).pow_(per_view(view.exponent))
        gain, offset = span * gain, low * gain + offset
    if curved or scaled:
        images = torch.addcmul(offset, images, gain)
    if bool((view.noise != 0).any()):
        generator = torch.Generator(images.device).manual_seed(view.noise_seed)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        images = torch.addcmul(images, noise.to(images), per_view(view.noise))
    with torch.autocast(images.device.type, enabled=False):  # else products of bfloat16
        if bool((view.blur > 0).any()):
            along = _blurring(there(view.blur), images.shape[-1])
            images = along[:, None] @ images @ along[:, None].mT
        if bool((view.low_resolution > 1).any()):
            along = _coarsening(there(view.low_resolution), images.shape[-1])
            images = along[:, None] @ images @ along[:, None].mT
    return images


def _blurring(sigma: Tensor, size: int) -> Tensor:
    """(B, size, size), along one axis: Gaussian means; at the border over what is inside."""
    pixel = torch.arange(size, device=sigma.device)
    distance = (pixel[:, None] - pixel) / sigma.clamp(min=1e-3)[:, None, None]  # 0 blurs nothing
    weight = torch.exp(-distance.square() / 2)
    return weight / weight.sum(dim=-1, keepdim=True)


def _coarsening(factor: Tensor, size: int) -> Tensor:
    """(B, size, size), along one axis: means over n larger pixels, then linear between them."""
    n = (size / factor).round().clamp(min=1)[:, None, None]  # larger pixels
    pixel = torch.arange(size, device=factor.device)
    larger, width = pixel[:, None], size / n
    start = torch.maximum(larger * width, pixel)
    end = torch.minimum((larger + 1) * width, pixel + 1)
    down = (end - start).clamp(min=0) / width
    where = (pixel[:, None] + 0.5) / width - 0.5  # middles of pixels, counted in larger ones
    up = (1 - (where.clamp(min=0).minimum(n - 1) - pixel).abs()).clamp(min=0)
    return up @ down


def canvas_size(size: int, settings: ViewSettings) -> int:
    """Extent of the canvas that views of ``size`` pixels need so that a turned one has corners."""
    angle = math.radians(min(settings.rotation, 45.0))
    reach = (math.cos(angle) + math.sin(angle)) + 2 * settings.shift
    return 2 * math.ceil(size * reach / 2)


class ViewMaker:
    """Makes views of a fixed size by fixed settings; what a method needs to know of views."""

    def __init__(self, settings: ViewSettings, size: int) -> None:
        self.settings = settings
        self.size = size

    def draw(self, n: int, seed: int, *, view: int = 0) -> View:
        """The parameters of ``n`` views for one training step."""
        return draw_view(n, self.settings, mix_seed(seed, view))

    def apply(self, images: Tensor, view: View) -> Tensor:
        """:func:`apply_view` at this size."""
        return apply_view(images, view, self.size)

    def apply_to_labels(self, labels: Tensor, view: View) -> Tensor:
        """:func:`apply_view_to_labels` at this size."""
        return apply_view_to_labels(labels, view, self.size)

    def __call__(self, images: Tensor, seed: int, *, view: int = 0) -> Tensor:
        """Views (B, 1, size, size) of slices (B, 1, canvas, canvas); ``view`` numbers them."""
        return self.apply(images, self.draw(len(images), seed, view=view))
