"""Changes of intensity. Each transform draws its parameters apart from applying them.

Each image channel has its own parameters. The neighbouring slices of a channel share them. Images
are (B, k, C, H, W) here: k neighbouring slices of C image channels.

The order is gamma, contrast, brightness, noise, blur, low resolution. nnU-Net's order (Isensee et
al. 2021) is noise, blur, brightness, contrast, low resolution, gamma. Brightness and contrast may
change places with blur and low resolution, so two things differ: gamma comes first here, and
contrast does not scale the noise.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from poscon.seeds import stream
from poscon.views.settings import ViewSettings
from poscon.views.transform import (
    Parameters,
    Transform,
    add_unless_neutral,
    chance,
    generator_of,
    uniform,
)


class IntensityTransform(Transform):
    """A change of pixel values. The parameter is one number for each view and image channel."""

    @abstractmethod
    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        """Change images.

        Args:
            images: (B, k, C, size, size). They may be overwritten.
            values: the parameters (B, 1, C, 1, 1), where the images are.
            seed: seed of the view, for what is drawn for each pixel.

        Returns:
            (B, k, C, size, size).
        """


class Gamma(IntensityTransform):
    """An exponent between the extremes of a channel.

    With l the smallest and h the largest value of the channel over its neighbouring slices, x
    becomes l + (h - l) ((x - l) / (h - l))^values.
    """

    off, neutral = 0, 1.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return _factor(n, settings.gamma, generator)

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        low, high = images.amin((1, 3, 4), True), images.amax((1, 3, 4), True)
        span = (high - low).clamp(min=1e-6)
        return images.sub_(low).div_(span).pow_(values).mul_(span).add_(low)


class Contrast(IntensityTransform):
    """A factor: x becomes x * values."""

    off, neutral = 0, 1.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return _factor(n, settings.contrast, generator)

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        return images.mul_(values)


class Brightness(IntensityTransform):
    """An offset: x becomes x + values."""

    off, neutral = 0, 0.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return torch.randn(n, generator=generator) * settings.brightness

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        return images.add_(values)


class Noise(IntensityTransform):
    """Gaussian noise with a standard deviation of ``values``, independent for each pixel.

    It is drawn on the device of the images, so a CPU and a GPU draw different noise.
    """

    off, neutral = 0, 0.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return uniform(0, settings.noise, (n,), generator)

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(stream(seed, "noise", "pixels"))
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return images.addcmul_(noise.to(images), values)


class Blur(IntensityTransform):
    """Gaussian blur with a standard deviation of ``values`` pixels.

    At the border it is the weighted mean over the pixels inside.
    """

    off, neutral = 0, 0.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return uniform(0, settings.blur, (n,), generator)

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        pixel = torch.arange(images.shape[-1], device=images.device)
        distance = (pixel[:, None] - pixel) / values.clamp(min=1e-3)  # 0 blurs nothing
        weight = torch.exp(-distance.square() / 2)
        return _along_both_axes(weight / weight.sum(dim=-1, keepdim=True), images)


class LowResolution(IntensityTransform):
    """Means over pixels that are ``values`` times as large, then linear interpolation back.

    The number of larger pixels along an axis is rounded to a whole number.
    """

    off, neutral = 1, 1.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> Tensor:
        return 1 / uniform(1 / settings.low_resolution, 1, (n,), generator)

    def apply(self, images: Tensor, values: Tensor, seed: int) -> Tensor:
        size = images.shape[-1]
        n = (size / values).round().clamp(min=1)  # larger pixels
        pixel = torch.arange(size, device=images.device)
        larger, width = pixel[:, None], size / n
        start = torch.maximum(larger * width, pixel)
        end = torch.minimum((larger + 1) * width, pixel + 1)
        down = (end - start).clamp(min=0) / width
        where = (pixel[:, None] + 0.5) / width - 0.5  # middles of pixels, counted in larger ones
        up = (1 - (where.clamp(min=0).minimum(n - 1) - pixel).abs()).clamp(min=0)
        return _along_both_axes(up @ down, images)


def _factor(n: int, largest: float, generator: torch.Generator) -> Tensor:
    """Factors between 1 / (1 + largest) and 1 + largest, uniform on a logarithmic scale."""
    return torch.exp(uniform(-1, 1, (n,), generator) * math.log1p(largest))


def _along_both_axes(matrix: Tensor, images: Tensor) -> Tensor:
    """Multiply rows and columns of images by a (B, 1, C, size, size) matrix of the images' type."""
    matrix = matrix.to(images)
    return matrix @ images @ matrix.mT


INTENSITY: dict[str, IntensityTransform] = {
    "gamma": Gamma(),
    "contrast": Contrast(),
    "brightness": Brightness(),
    "noise": Noise(),
    "blur": Blur(),
    "low_resolution": LowResolution(),
}
"""In the order in which they are applied."""


def draw_intensity(n: int, channels: int, settings: ViewSettings, seed: int) -> Parameters:
    """Draw the parameters (n, channels) of all changes of intensity that are on.

    Every channel has its own stream, so a further channel changes nothing for the others.
    """
    drawn: Parameters = {}
    for name, transform in INTENSITY.items():
        if getattr(settings, name) == transform.off:
            continue
        columns = []
        for channel in range(channels):
            generator = generator_of(seed, name, channel)
            values = transform.draw(n, settings, generator)
            made = chance(n, settings.intensity_probability, generator)
            columns.append(torch.where(made, values, transform.neutral))
        add_unless_neutral(drawn, name, torch.stack(columns, dim=1), transform.neutral)
    return drawn


def apply_intensity(images: Tensor, intensity: Parameters, seed: int) -> Tensor:
    """Change the intensity of views.

    Args:
        images: (B, k * C, size, size), all image channels of the first neighbouring slice before
            those of the second. They may be overwritten.
        intensity: the parameters (B, C) of each change.
        seed: seed of the view, for what is drawn for each pixel.

    Returns:
        (B, k * C, size, size).
    """
    if not intensity:
        return images
    channels = next(iter(intensity.values())).shape[1]
    images = images.unflatten(1, (-1, channels))
    for name, transform in INTENSITY.items():
        if name in intensity:  # parameters are on the CPU, so no GPU is waited for
            values = intensity[name].to(images, non_blocking=True)[:, None, :, None, None]
            images = transform.apply(images, values, seed)
    return images.flatten(1, 2)
