"""The parts of every segmentation network: encoder, decoder, and a classifier of pixels."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from poscon.networks.layers import CONV, ConvBlock, initialise, up_sample
from poscon.networks.settings import NetworkSettings


class Encoder(nn.Module):
    """Base of the encoders: images in, features at every level out.

    Level 0 has the resolution of the image, and every further level has half the resolution of the
    level before it. An architecture is a subclass that takes the same arguments and implements
    :meth:`features`. It sets ``channels_of_level`` anew where the
    width does not double at each level.

    Attributes:
        settings: that it was built from.
        dimensions: number of dimensions of the images, 2 or 3.
        in_channels: channels of the images, see :attr:`NetworkSettings.in_channels`.
        channels_of_level: channels of the features at each level, full resolution first.
        stride: extents of the images must be a multiple of this.
        even_levels: how many levels after level 0 have half the resolution of the one before along
            every axis: all of them, except in a few networks of nnU-Net.
        least_size: extents of the images must be this at least.
    """

    summary: ClassVar[str] = ""
    """What it is, in one line, for ``poscon methods``."""
    citation: ClassVar[str] = ""
    own_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of the network that have an effect with this architecture and not with every one."""
    decoder_convolutions: ClassVar[int] = 2
    """Convolutions at each level of the decoder that goes with it."""

    def __init__(self, settings: NetworkSettings, dimensions: int = 2) -> None:
        super().__init__()
        self.settings = settings
        self.dimensions = dimensions
        self.in_channels = settings.in_channels
        self.channels_of_level = tuple(settings.width * 2**k for k in range(settings.levels + 1))
        self.stride = self.least_size = settings.stride
        self.even_levels = settings.levels

    @property
    def feature_channels(self) -> int:
        """Channels at the last level, the bottleneck."""
        return self.channels_of_level[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> (B, C, H / 2^k, W / 2^k) for k = 0, 1, ..."""
        return self.features(self._laid_out(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """What :meth:`forward` returns, from images in the memory layout of the weights."""
        raise NotImplementedError

    def new_decoder(self, blocks: int | None = None) -> "Decoder":
        """The decoder that goes with it, with random weights.

        Args:
            blocks: how many levels it climbs; None: all, up to full resolution.
        """
        return Decoder(
            self.channels_of_level,
            self.dimensions,
            convolutions=self.decoder_convolutions,
            blocks=blocks,
        )

    def _laid_out(self, images: Tensor) -> Tensor:
        """The same pixels, with strides that say channels last if the convolutions are.

        With one channel both layouts are the same memory, and torch takes it for channels first.
        In the backward pass of the first convolution it would then turn the largest gradient of
        the network around, and cuDNN would turn it back.
        """
        if images.ndim != 4 or not self._channels_last():
            return images
        _, channels, rows, columns = images.shape
        strides = (channels * rows * columns, 1, columns * channels, channels)
        return images.contiguous(memory_format=torch.channels_last).as_strided(
            images.shape, strides
        )

    def _channels_last(self) -> bool:
        return any(
            weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            for weight in self.parameters()
            if weight.ndim == 4
        )


class Decoder(nn.Module):
    """The expanding half: features at every level -> the decoder's own maps, coarse to fine.

    Args:
        channels_of_level: channels of each level of the encoder before it.
        convolutions: at each level.
        blocks: how many levels it climbs; None: all, up to full resolution.

    Attributes:
        channels_of_map: channels of each map, the coarsest first.
    """

    up_first: ClassVar[bool] = False
    """Whether a block has the upsampled features before those of the encoder."""

    def __init__(
        self,
        channels_of_level: tuple[int, ...],
        dimensions: int = 2,
        *,
        convolutions: int = 2,
        blocks: int | None = None,
    ) -> None:
        super().__init__()
        pairs = list(pairwise(reversed(channels_of_level)))[:blocks]
        self.channels_of_map = tuple(wide for _, wide in pairs)
        self.ups = nn.ModuleList(up_sample(deep, wide, dimensions) for deep, wide in pairs)
        self.blocks = nn.ModuleList(
            ConvBlock(2 * wide, wide, dimensions, convolutions=convolutions) for _, wide in pairs
        )
        self.apply(initialise)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features of the encoder, the bottleneck last -> one map per block, the finest last."""
        *skips, x = features
        maps = []
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=False):
            pair = (up(x), skip) if self.up_first else (skip, up(x))
            x = block(torch.cat(pair, dim=1))
            maps.append(x)
        return maps


class SegmentationNetwork(nn.Module):
    """Encoder, decoder and a classifier of pixels; ``n_classes`` counts the background."""

    def __init__(self, encoder: Encoder, decoder: Decoder, n_classes: int) -> None:
        super().__init__()
        self.settings = encoder.settings
        self.n_classes = n_classes
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = CONV[encoder.dimensions](decoder.channels_of_map[-1], n_classes, 1)
        initialise(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits of every pixel.

        Args:
            images: (B, in_channels, H, W), extents a multiple of the encoder's stride.

        Returns:
            (B, n_classes, H, W).
        """
        return self.classifier(self.decoder(self.encoder(images))[-1])
