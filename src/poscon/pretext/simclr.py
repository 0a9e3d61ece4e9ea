"""SimCLR: contrast each slice with all others (Chen et al., ICML 2020, arXiv 2002.05709)."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from poscon import settings
from poscon.distributed import rank
from poscon.networks.embedding import embed
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.contrast import contrast, two_views
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


def nt_xent_loss(embeddings: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent, Eq. 1 of Chen et al. 2020.

    Rows i and i + N are the two views of slice i. With z the embeddings at unit length and T the
    temperature, the pair (i, j) of the views of one slice has

        l(i, j) = -log( exp(z_i.z_j / T) / sum_{k != i} exp(z_i.z_k / T) )

    and the loss is the mean of l(i, j) over both orders of all pairs.

    Args:
        embeddings: (2N, D), of any length other than zero. In a distributed training they are
            those of this process, and the loss is over all processes.
        temperature: greater than zero.
    """
    return slice_contrast(embeddings, temperature=temperature).loss


def slice_contrast(embeddings: Tensor, *, temperature: float) -> Step:
    """:func:`nt_xent_loss` with its chance level, floor and logs; the same arguments."""
    n = len(embeddings) // 2
    slices = torch.arange(n, device=embeddings.device) + n * rank()  # other processes have others
    return contrast(embeddings, slices.repeat(2), same, temperature=temperature)


def same(anchors: Tensor, slices: Tensor) -> Tensor:
    """Which views show the slice of which anchor: slices (A,) and (B,) give (A, B) bool."""
    return anchors[:, None] == slices


class SimCLR(PretextMethod):
    """Two views of every slice. The other view is the positive, all other views are negatives."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            temperature: temperature of the softmax.
        """

        temperature: PositiveFloat = 0.1

    summary = "contrast slices: only another view of the same slice = positive"
    citation = "Chen et al., ICML 2020, arXiv 2002.05709"
    needs = "slices"
    in_processes = True
    uses_grad_cache = True

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.head = ProjectionHead(encoder.feature_channels, head)
        self.loss = loss

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        images = two_views(batch, views, seed)
        embeddings = embed(self.encoder, self.head, images, self.grad_cache_chunk)
        return slice_contrast(embeddings, temperature=self.loss.temperature)
