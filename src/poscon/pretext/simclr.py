"""SimCLR: contrast every slice with every other one (Chen et al., ICML 2020, arXiv 2002.05709)."""

import math

import torch
from pydantic import PositiveFloat
from torch import Tensor

from poscon import settings
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.unet import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.contrast import contrastive_loss, mean_similarity, two_views
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


def nt_xent_loss(embeddings: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent, Eq. 1 of Chen et al. 2020.

    Rows i and i + N are the two views of slice i. With z the embeddings at unit length and T the
    temperature, the pair (i, j) of the views of one slice has

        l(i, j) = -log( exp(z_i.z_j / T) / sum_{k != i} exp(z_i.z_k / T) )

    and the loss is the mean of l(i, j) over both orders of all pairs.

    Args:
        embeddings: (2N, D), of any length other than zero.
        temperature: greater than zero.
    """
    n = len(embeddings) // 2
    own = torch.arange(n, device=embeddings.device).repeat(2)
    return contrastive_loss(embeddings, own[:, None] == own, temperature=temperature)


class SimCLR(PretextMethod):
    """Two views of every slice; the positive is the other view, all others are negatives."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            temperature: of the softmax.
        """

        temperature: PositiveFloat = 0.1

    summary = "contrast slices: only another view of the same slice = positive"
    citation = "Chen et al., ICML 2020, arXiv 2002.05709"
    needs = "slices"

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.head = ProjectionHead(encoder.settings.feature_channels, head)
        self.loss = loss

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        embeddings = self.head(self.encoder(two_views(batch, views, seed))[-1])
        return Step(
            nt_xent_loss(embeddings, temperature=self.loss.temperature),
            chance=math.log(len(embeddings) - 1),
            floor=0.0,
            logs={"similarity": mean_similarity(embeddings)},
        )
