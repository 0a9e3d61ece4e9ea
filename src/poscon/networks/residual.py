"""The residual-encoder U-Net of Isensee et al. (MICCAI 2024, arXiv 2404.09556).

The encoder has residual blocks, more of them at the deeper levels, and halves the resolution by
strided convolutions. The decoder has one convolution at each level. Unlike there, the normalisation
is BatchNorm, as in the U-Net of this package, and the width is not limited at the deep levels.
"""

from torch import Tensor, nn

from poscon.networks.layers import CONV, MEAN_POOL, NORM, ConvBlock, initialise
from poscon.networks.parts import Encoder
from poscon.networks.settings import NetworkSettings


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, in form D of He et al. (CVPR 2019, 1812.01187).

    Where the resolution is halved, the shortcut takes the mean of 2x2 pixels; where the number of
    channels changes, a 1x1 convolution follows.
    """

    def __init__(self, inputs: int, outputs: int, dimensions: int, *, stride: int = 1) -> None:
        super().__init__()
        conv, norm = CONV[dimensions], NORM[dimensions]
        self.residual = nn.Sequential(
            conv(inputs, outputs, 3, padding=1, stride=stride, bias=False),
            norm(outputs),
            nn.LeakyReLU(inplace=True),
            conv(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        shortcut: list[nn.Module] = [MEAN_POOL[dimensions](stride)] if stride > 1 else []
        if inputs != outputs:
            shortcut += [conv(inputs, outputs, 1, bias=False), norm(outputs)]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.activation(self.residual(features) + self.shortcut(features))


class ResidualEncoder(Encoder):
    """A convolution, then residual blocks at every level."""

    summary = "residual-encoder U-Net: residual blocks, more at the deeper levels"
    citation = "Isensee et al., MICCAI 2024, arXiv 2404.09556"
    own_settings = frozenset({"blocks"})
    decoder_convolutions = 1

    def __init__(self, settings: NetworkSettings, dimensions: int = 2) -> None:
        super().__init__(settings, dimensions)
        widths = self.channels_of_level
        counts = settings.blocks or (1, 3, 4, *[6] * settings.levels)[: settings.levels + 1]
        self.stem = ConvBlock(self.in_channels, widths[0], dimensions, convolutions=1)
        self.levels = nn.ModuleList()
        before = widths[0]
        for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
            first = ResidualBlock(before, width, dimensions, stride=2 if level else 1)
            rest = (ResidualBlock(width, width, dimensions) for _ in range(count - 1))
            self.levels.append(nn.Sequential(first, *rest))
            before = width
        self.apply(initialise)

    def features(self, images: Tensor) -> list[Tensor]:
        x, features = self.stem(images), []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features
