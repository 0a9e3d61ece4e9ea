"""The layers that the architectures are made of, in two and in three dimensions."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _BatchNorm

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def initialise(module: nn.Module) -> None:
    """He initialisation (He et al. 2015) of convolutions and linear layers, biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvBlock(nn.Sequential):
    """Some 3x3 convolutions, each with normalisation and LeakyReLU; without norm, with ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dimensions: int,
        *,
        norm: bool = True,
        convolutions: int = 2,
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, *[outputs] * (convolutions - 1)):
            layers.append(CONV[dimensions](channels, outputs, 3, padding=1, bias=not norm))
            if norm:
                layers += [NORM[dimensions](outputs), nn.LeakyReLU(inplace=True)]
            else:
                layers += [nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UpSample2d(nn.Module):
    """The transposed convolution with kernel 2 and stride 2, as a 1x1 convolution and a shuffle.

    In such a transposed convolution no two inputs meet in one output. So it is a 1x1 convolution
    to four times the channels, whose values are then laid out in 2x2 pixels (Shi et al., CVPR 2016,
    arXiv 1609.05158). The numbers are the same; docs/decisions/0011-cpu-step.md says what it
    costs. The convolution makes the channels pixel by pixel, so that the layout is one copy of
    whole runs in channels-last memory. Weights are initialised as those of ``nn.ConvTranspose2d``.

    Attributes:
        weight: (4 * outputs, inputs, 1, 1); row 4 * o + 2 * a + b makes output channel o of the
            pixel at row a and column b of each 2x2 pixels.
        bias: (outputs,).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(4 * outputs)
        self.weight = nn.Parameter(torch.empty(4 * outputs, inputs, 1, 1).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2 H, 2 W)."""
        n, inputs, rows, columns = features.shape
        by_pixel = self.weight.reshape(-1, 4, inputs, 1, 1).transpose(0, 1).flatten(0, 1)
        pixels = conv2d(features, by_pixel, self.bias.repeat(4)).permute(0, 2, 3, 1)
        laid_out = pixels.reshape(n, rows, columns, 2, -1).transpose(2, 3)
        return laid_out.reshape(n, 2 * rows, 2 * columns, -1).permute(0, 3, 1, 2)


def up_sample(inputs: int, outputs: int, dimensions: int) -> nn.Module:
    """A learnt doubling of the resolution: a transposed convolution of kernel 2 and stride 2."""
    if dimensions == 2:
        return UpSample2d(inputs, outputs)
    return nn.ConvTranspose3d(inputs, outputs, 2, stride=2)


@contextmanager
def statistics_kept(*networks: nn.Module) -> Iterator[None]:
    """Running statistics of BatchNorm stay as they are; in training it normalises by the batch."""
    norms = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, _BatchNorm)
    ]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
