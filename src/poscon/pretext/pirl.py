"""PIRL: pretext-invariant representations (Misra & van der Maaten, CVPR 2020, arXiv 1912.01991)."""

import math

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from poscon import settings
from poscon.errors import PosconError
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.layers import initialise
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.contrast import mean_similarity, unit
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


def nce_loss(
    embeddings: Tensor, own: Tensor, others: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """L_NCE against a memory bank, Eq. 3 and 4 of Misra & van der Maaten 2020.

    With s the cosine, T the temperature and D the negatives of anchor v, a row m of the bank
    belongs to v with the probability (Eq. 3)

        h(m, v) = exp(s(m, v) / T) / (exp(s(m, v) / T) + sum_{m' in D} exp(s(m', v) / T))

    where m is the anchor's own row or one of D. The loss of v is (Eq. 4)

        L = -log h(own, v) - sum_{m' in D} log(1 - h(m', v))

    The result is the mean over the anchors. The gradient goes through the sum in h too. Without
    negatives the loss is 0.

    Args:
        embeddings: (B, D), the anchors, of any length other than zero.
        own: (B, D), the anchors' own rows of the bank.
        others: (M, D), further rows of the bank.
        negatives: (B, M) bool; row i marks the negatives of anchor i.
        temperature: greater than zero.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    z = unit(embeddings)
    with torch.autocast(z.device.type, enabled=False):  # else a product of bfloat16
        near = (z * unit(own)).sum(dim=1) / temperature
        far = z @ unit(others).T / temperature
    # a finite filling keeps the gradient finite where nothing is left to sum
    far = far.masked_fill(~negatives, torch.finfo(far.dtype).min)
    log_sum = far.logsumexp(dim=1)
    # h is a logistic function of (s / T - log sum), so neither h nor 1 - h is ever formed
    positive = -logsigmoid(near - log_sum)
    negative = -(logsigmoid(log_sum[:, None] - far) * negatives).sum(dim=1)
    return (positive + negative).mean()


def nce_chance(n: int) -> float:
    """L_NCE with ``n`` negatives when all embeddings are equal: each h is 1 / (n + 1)."""
    return math.log1p(n) + n * math.log1p(1 / n)


def nce_floor(n: int, temperature: float) -> float:
    """About the smallest possible L_NCE with ``n`` negatives.

    The positive term is smallest if the anchor's own row has the cosine 1 and the others are as far
    away as n + 1 points of a sphere can be from each other, at the cosine -1/n. The negative terms
    are sum log(1 + p) over shares p that sum to 1. That is log 2 if one negative is by far the
    nearest, and n log(1 + 1/n) < 1 if all are equally far.
    """
    return math.log1p(n * math.exp(-(1 + 1 / n) / temperature)) + math.log(2)


def draw_negatives(slices: Tensor, n_slices: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw ``n`` other slices for each slice without repetition, or all others if there are fewer.

    n + 1 rows are drawn for the whole batch. A slice that is among them has all others as its
    negatives. Any other slice has all except the last.

    Args:
        slices: (B,) int64, the numbers of the slices of the batch.
        n_slices: number of slices of the training.
        n: negatives per slice.
        seed: seed of the draw.

    Returns:
        (M,) int64, the drawn slices; and (B, M) bool, row i marks the negatives of slice i.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(n_slices, generator=generator)[: n + 1]
    drawn = drawn.to(slices.device, non_blocking=True)
    negatives = drawn != slices[:, None]
    negatives[:, -1] &= ~negatives.all(dim=1)
    return drawn, negatives


def jigsaw_patches(images: Tensor, grid: int, stride: int) -> Tensor:
    """Cut images into ``grid`` x ``grid`` square patches that together cover them.

    The extent of a patch is the smallest multiple of the stride with which the patches cover the
    image, so that pooling drops no pixels. If the patches are larger than their share, they overlap
    evenly.

    Args:
        images: (B, C, size, size). All input channels are cut alike.
        grid: patches along each axis, at least 2.
        stride: stride of the encoder.

    Returns:
        (B, grid * grid, C, extent, extent), row by row.
    """
    size = images.shape[-1]
    extent = -(-size // (grid * stride)) * stride
    starts = [i * (size - extent) // (grid - 1) for i in range(grid)]
    patches = [
        images[:, :, top : top + extent, left : left + extent] for top in starts for left in starts
    ]
    return torch.stack(patches, dim=1)


def check_patches(size: int, grid: int, stride: int) -> None:
    """Refuse patches that are too small for the encoder's stride.

    Raises:
        PosconError: a patch's share of the view is smaller than the stride.
    """
    if size < grid * stride:
        raise PosconError(
            f"setting loss.grid = {grid}: each of {grid} x {grid} patches has {size // grid} of "
            f"the view's {size} pixels, and the encoder needs {stride}; set size to "
            f"{grid * stride} or more, or a smaller loss.grid or network.levels"
        )


def draw_orders(n: int, patches: int, seed: int) -> Tensor:
    """(n, patches) int64: a random order of the patches for each of n slices."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, patches, generator=generator).argsort(dim=1)


class JigsawHead(nn.Module):
    """Pool and project each patch, concatenate the patches in an order, project the whole.

    Between the two projections are BatchNorm (a setting) and ReLU, as in the projection head.
    """

    def __init__(self, channels: int, patches: int, settings: HeadSettings) -> None:
        super().__init__()
        hidden = patches * settings.dimension
        self.project = nn.Linear(channels, settings.dimension)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(hidden) if settings.norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, settings.dimension),
        )
        self.apply(initialise)

    def forward(self, bottleneck: Tensor, orders: Tensor) -> Tensor:
        """(B * patches, C, *spatial) and (B, patches) -> (B, dimension)."""
        vectors = self.project(bottleneck.flatten(2).mean(-1)).unflatten(0, orders.shape)
        return self.layers(vectors.take_along_dim(orders[:, :, None], dim=1).flatten(1))


class PIRL(PretextMethod):
    """A slice and its shuffled patches should both match the slice's row of a memory bank."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            temperature: temperature of the cosines.
            negatives: number of other slices that each slice is contrasted with, or all if there
                are fewer.
            jigsaw_weight: weight of the term of the patches, lambda in the paper. The term of the
                whole slice has the rest of 1.
            momentum: share of its old row that the memory bank keeps when a slice is seen.
            grid: number of patches along each axis.
        """

        temperature: PositiveFloat = 0.07
        negatives: PositiveInt = 32000
        jigsaw_weight: float = Field(0.5, gt=0, lt=1)
        momentum: float = Field(0.5, ge=0, lt=1)
        grid: int = Field(3, ge=2)

    summary = "a slice and its shuffled patches match one memory, other slices do not"
    citation = "Misra & van der Maaten, CVPR 2020, arXiv 1912.01991"
    needs = "slices"

    bank: Tensor

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        channels = encoder.feature_channels
        self.head = ProjectionHead(channels, head)
        self.jigsaw_head = JigsawHead(channels, loss.grid**2, head)
        self.register_buffer("bank", unit(torch.randn(n_slices, head.dimension)))
        self.loss = loss

    def check(self, total_steps: int, views: ViewMaker) -> None:
        check_patches(views.size, self.loss.grid, self.encoder.least_size)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.slice_ids is not None
        images = self.head(self.encoder(views(batch.images, seed, view=0))[-1])
        patches = jigsaw_patches(
            views(batch.images, seed, view=1), self.loss.grid, self.encoder.least_size
        )
        orders = draw_orders(len(patches), patches.shape[1], stream(seed, "orders"))
        bottleneck = self.encoder(patches.flatten(0, 1))[-1]
        orders = orders.to(bottleneck.device, non_blocking=True)
        jigsaws = self.jigsaw_head(bottleneck, orders)
        own = self.bank[batch.slice_ids]
        drawn, negatives = draw_negatives(
            batch.slice_ids, len(self.bank), self.loss.negatives, stream(seed, "negatives")
        )
        others = self.bank[drawn]
        jigsaw_loss, image_loss = (
            nce_loss(z, own, others, negatives, temperature=self.loss.temperature)
            for z in (jigsaws, images)
        )
        weight = self.loss.jigsaw_weight
        self._remember(batch.slice_ids, images)
        n = min(self.loss.negatives, len(self.bank) - 1)
        return Step(
            weight * jigsaw_loss + (1 - weight) * image_loss,  # Eq. 5
            chance=nce_chance(n),
            floor=nce_floor(n, self.loss.temperature),
            logs={"similarity": mean_similarity(images)},
        )

    @torch.no_grad()
    def _remember(self, slices: Tensor, embeddings: Tensor) -> None:
        """Move the rows of the slices towards their embeddings. Rows keep unit length."""
        self.bank[slices] = unit(self.bank[slices].lerp(unit(embeddings), 1 - self.loss.momentum))
