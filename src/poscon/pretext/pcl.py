"""PCL: positional contrastive learning (Zeng et al., MICCAI 2021, arXiv 2106.09157)."""

from functools import partial

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from poscon import settings
from poscon.networks.embedding import embed
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.contrast import contrast, two_views
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

ROUNDING = 1e-5
"""A distance must be below the threshold by this share of it. Rounding of positions is smaller."""


def near(anchors: Tensor, positions: Tensor, threshold: float) -> Tensor:
    """Which positions are closer to which anchor than the threshold.

    A position exactly at the threshold is not closer. Positions are fractions such as 3/10 and
    4/10, and rounding makes their difference a little more or less than 1/10. A distance that
    equals the threshold except for rounding therefore counts as equal.

    Args:
        anchors: (A,) positions.
        positions: (B,).
        threshold: in units of the positions.

    Returns:
        (A, B) bool.
    """
    return (anchors[:, None] - positions).abs() < threshold * (1 - ROUNDING)


def positional_contrastive_loss(
    embeddings: Tensor, positions: Tensor, *, threshold: float, temperature: float
) -> Tensor:
    """The PCL loss, Eq. 1 and 2 of Zeng et al. 2021.

    With z the embeddings at unit length, p the positions, t the threshold and T the temperature,
    anchor i has the positives P(i) = {j != i : |p_i - p_j| < t} (strictly less) and

        L_i = -1/|P(i)| * sum_{j in P(i)} log( exp(z_i.z_j / T) / sum_{k != i} exp(z_i.z_k / T) )

    The loss is the mean of L_i over the anchors that have a positive. If no anchor has one, the
    loss is 0 and its gradient is 0. With a threshold of 0 or less there are no positives, not even
    another view at the same position. With a threshold above the range of the positions, every
    other view is a positive.

    Args:
        embeddings: (B, D), of any length other than zero. Each view of a slice has its own row. In
            a distributed training they are those of this process, and the loss is over all.
        positions: (B,).
        threshold: in units of the positions.
        temperature: greater than zero.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    rule = partial(near, threshold=threshold)
    return contrast(embeddings, positions, rule, temperature=temperature).loss


class PositionalContrast(PretextMethod):
    """Two views of every slice. Positives are all views at nearly the same position."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            threshold: slices closer than this are positives. Positions run from 0 to 1, so at 1
                all slices would be positives.
            temperature: temperature of the softmax.
        """

        threshold: float = Field(0.1, gt=0, lt=1)
        temperature: PositiveFloat = 0.1

    summary = "contrast slices by position: near in any two patients = positive"
    citation = "Zeng et al., MICCAI 2021, arXiv 2106.09157"
    needs = "slices and their positions"
    in_processes = True
    uses_grad_cache = True

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.head: nn.Module = ProjectionHead(encoder.feature_channels, head)
        self.loss = loss

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        images = two_views(batch, views, seed)
        embeddings = embed(self.encoder, self.head, images, self.grad_cache_chunk)
        rule = partial(near, threshold=self.loss.threshold)
        return contrast(
            embeddings, batch.positions.repeat(2), rule, temperature=self.loss.temperature
        )
