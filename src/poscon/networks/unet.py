"""The U-Net (Ronneberger et al. 2015) in the form of Zeng et al. 2021, split into its two halves.

Widths w, 2w, 4w, 8w and 16w at the bottleneck; two 3x3 convolutions with normalisation and
LeakyReLU a level; max pooling down, transposed convolution up; He initialisation of the
convolutions. Slices need two dimensions; the classes take three as well.
"""

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from poscon.settings import Settings


class NetworkSettings(Settings):
    """The architecture; a checkpoint fits a network of equal settings only.

    Attributes:
        width: channels at full resolution; doubles a level.
        levels: number of poolings.
        bottleneck_norm: normalise in the bottleneck too. The published network does not.
    """

    width: PositiveInt = 16
    levels: PositiveInt = 4
    bottleneck_norm: bool = True

    @property
    def feature_channels(self) -> int:
        """Channels at the bottleneck."""
        return self.width * 2**self.levels

    @property
    def stride(self) -> int:
        """Input extents must be a multiple of this."""
        return 2**self.levels


_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ConvBlock(nn.Sequential):
    """Twice: 3x3 convolution, normalisation, LeakyReLU; without norm: convolution, ReLU."""

    def __init__(self, inputs: int, outputs: int, dimensions: int, *, norm: bool = True) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers.append(_CONV[dimensions](channels, outputs, 3, padding=1, bias=not norm))
            if norm:
                layers += [_NORM[dimensions](outputs), nn.LeakyReLU(inplace=True)]
            else:
                layers += [nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Encoder(nn.Module):
    """The contracting half: (B, 1, H, W) -> features at every level, the bottleneck last."""

    def __init__(self, settings: NetworkSettings, dimensions: int = 2) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.width * 2**level for level in range(settings.levels + 1)]
        inputs = [1, *widths[:-1]]
        self.blocks = nn.ModuleList(
            ConvBlock(
                channels,
                width,
                dimensions,
                norm=settings.bottleneck_norm or level < settings.levels,
            )
            for level, (channels, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.pool = _POOL[dimensions](2)
        self.apply(initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.blocks[0](self._laid_out(images))]
        for block in self.blocks[1:]:
            features.append(block(self.pool(features[-1])))
        return features

    def _laid_out(self, images: Tensor) -> Tensor:
        """The same memory, with strides that say channels last if the convolutions are.

        With one channel both layouts are the same memory, and torch takes it for channels first:
        in the backward pass of the first convolution it would then turn the largest gradient of
        the network around, and cuDNN would turn it back.
        """
        weight = next(self.blocks[-1].parameters())
        if images.ndim != 4 or not weight.is_contiguous(memory_format=torch.channels_last):
            return images
        _, channels, rows, columns = images.shape
        strides = (channels * rows * columns, 1, columns * channels, channels)
        return images.contiguous(memory_format=torch.channels_last).as_strided(
            images.shape, strides
        )


class Decoder(nn.Module):
    """The expanding half: features at every level -> the decoder's own, coarse to fine.

    Args:
        settings: of the encoder before it.
        blocks: how many levels it climbs; None: all, up to full resolution.
    """

    def __init__(
        self, settings: NetworkSettings, dimensions: int = 2, *, blocks: int | None = None
    ) -> None:
        super().__init__()
        widths = [settings.width * 2**level for level in range(settings.levels + 1)]
        pairs = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))[:blocks]
        self.ups = nn.ModuleList(_UP[dimensions](deep, wide, 2, stride=2) for deep, wide in pairs)
        self.blocks = nn.ModuleList(ConvBlock(2 * wide, wide, dimensions) for _, wide in pairs)
        self.apply(initialise)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of the encoder, the bottleneck last -> one map a block, the finest last."""
        *skips, x = features
        maps = []
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=False):
            x = block(torch.cat([skip, up(x)], dim=1))
            maps.append(x)
        return maps


class UNet(nn.Module):
    """Encoder, decoder and a classifier of pixels; ``n_classes`` counts the background."""

    def __init__(self, settings: NetworkSettings, n_classes: int, dimensions: int = 2) -> None:
        super().__init__()
        self.settings = settings
        self.n_classes = n_classes
        self.encoder = Encoder(settings, dimensions)
        self.decoder = Decoder(settings, dimensions)
        self.classifier = _CONV[dimensions](settings.width, n_classes, 1)
        initialise(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W), extents a multiple of the stride -> logits (B, n_classes, H, W)."""
        return self.classifier(self.decoder(self.encoder(images))[-1])


def initialise(module: nn.Module) -> None:
    """He initialisation (He et al. 2015) of convolutions and linear layers, biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
