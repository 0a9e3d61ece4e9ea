"""The U-Net (Ronneberger et al. 2015) in the form of Zeng et al. 2021.

Widths w, 2w, 4w, 8w and 16w at the bottleneck; two 3x3 convolutions with normalisation and
LeakyReLU at each level; max pooling down, transposed convolution up; He initialisation of the
convolutions. Slices need two dimensions; the classes take three as well.
"""

from torch import Tensor, nn

from poscon.networks.layers import MAX_POOL, ConvBlock, initialise
from poscon.networks.parts import Encoder
from poscon.networks.settings import NetworkSettings


class UNetEncoder(Encoder):
    """The contracting half of the U-Net."""

    summary = "the U-Net of the paper: two convolutions per level, max pooling"
    citation = "Ronneberger et al., MICCAI 2015; Zeng et al., MICCAI 2021"
    own_settings = frozenset({"bottleneck_norm"})

    def __init__(self, settings: NetworkSettings, dimensions: int = 2) -> None:
        super().__init__(settings, dimensions)
        widths = self.channels_of_level
        inputs = (self.in_channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            ConvBlock(
                channels,
                width,
                dimensions,
                norm=settings.bottleneck_norm or level < settings.levels,
            )
            for level, (channels, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.pool = MAX_POOL[dimensions](2)
        self.apply(initialise)

    def features(self, images: Tensor) -> list[Tensor]:
        features = [self.blocks[0](images)]
        for block in self.blocks[1:]:
            features.append(block(self.pool(features[-1])))
        return features
