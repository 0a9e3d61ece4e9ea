"""Projection heads: from the bottleneck to an embedding. They are not part of the U-Net."""

from pydantic import PositiveInt
from torch import Tensor, nn

from poscon.networks.layers import initialise
from poscon.settings import Settings


class HeadSettings(Settings):
    """The projection head.

    Attributes:
        dimension: length of the embedding.
        norm: BatchNorm after the hidden layer, which keeps the embeddings of a fresh network
            apart (docs/decisions/0003-collapse.md). The published head has none.
    """

    dimension: PositiveInt = 128
    norm: bool = True


class ProjectionHead(nn.Module):
    """Global average pool, linear, (BatchNorm,) ReLU, linear (Zeng et al. 2021, Sec. 3)."""

    def __init__(self, channels: int, settings: HeadSettings) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels) if settings.norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Linear(channels, settings.dimension),
        )
        self.apply(initialise)

    def forward(self, bottleneck: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, dimension), not normalised to unit length."""
        return self.layers(bottleneck.flatten(2).mean(-1))
