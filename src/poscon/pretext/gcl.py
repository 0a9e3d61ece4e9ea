"""GCL: contrast slices by partition, then regions (Chaitanya et al., NeurIPS 2020)."""

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from poscon import settings
from poscon.errors import PosconError
from poscon.networks.build import build_decoder
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.layers import initialise
from poscon.networks.parts import Decoder, Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.contrast import (
    chance_level,
    contrastive_loss,
    floor_level,
    mean_similarity,
    two_views,
    unit,
)
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker, with_intensity

GlobalVariant = Literal["GR", "GD-", "GD"]
LocalVariant = Literal["LR", "LD"]
Denominator = Literal["negatives", "all"]

_QUARTERS = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(1, 1), (1, 3), (3, 1), (3, 3)]
"""The places of the regions of a map, in quarters of the way from the first to the last place."""


def partitions_of(
    positions: Tensor, count: int, limits: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The partition of each slice, where all positions are cut into ``count`` equal parts.

    With positions in (0, 1], partition s = 0 .. count - 1 holds those above s / count, up to and
    including (s + 1) / count. With n partitions, slice i of n, at (i + 1) / n, is in partition i.
    With other limits, the parts lie between these.

    Args:
        positions: (N,).
        count: number of partitions.
        limits: the lowest and the highest position that there is. Positions at the lowest are in
            partition 0.

    Returns:
        (N,) int64.
    """
    below = 1 - 1e-6  # a position on a border belongs to the part below, even if it was rounded up
    low, high = limits
    share = (positions - low) / (high - low or 1)  # 0 if all positions are the same
    return (share * (count * below)).long()


def global_pairs(partitions: Tensor, variant: GlobalVariant) -> tuple[Tensor, Tensor]:
    """Positives and negatives of the global loss, for two views of N slices.

    Args:
        partitions: (N,), the partition of each slice.
        variant: see :func:`global_contrastive_loss`.

    Returns:
        Positives and negatives, (2N, 2N) bool each. Row i marks those of anchor i. The diagonal of
        the positives is set.
    """
    slices = torch.arange(len(partitions), device=partitions.device).repeat(2)
    partitions = partitions.repeat(2)
    same_slice = slices[:, None] == slices
    same_partition = partitions[:, None] == partitions
    if variant == "GR":
        return same_slice, ~same_slice
    if variant == "GD-":
        return same_slice, ~same_partition
    return same_partition, ~same_partition


def global_contrastive_loss(
    embeddings: Tensor,
    partitions: Tensor,
    *,
    variant: GlobalVariant,
    denominator: Denominator,
    temperature: float,
) -> Tensor:
    """The global loss, Eq. 1 and 2 of Chaitanya et al. 2020.

    Rows i and i + N are the two views of slice i. With z the embeddings at unit length, T the
    temperature, P(i) the positives and N(i) the negatives of anchor i,

        l_ij = -log( exp(z_i.z_j / T) / (exp(z_i.z_j / T) + sum_{k in N(i)} exp(z_i.z_k / T)) )

    The loss is the mean over the anchors of the mean over P(i) of l_ij.

    ========  ==================================  ===================================
    variant   positives                           negatives
    ========  ==================================  ===================================
    ``GR``    the other view of the slice         all views of other slices
    ``GD-``   the other view of the slice         views of slices of other partitions
    ``GD``    views of slices of the partition    views of slices of other partitions
    ========  ==================================  ===================================

    Args:
        embeddings: (2N, D), of any length other than zero.
        partitions: (N,), the partition of each slice.
        variant: the strategy of the paper.
        denominator: ``negatives``, as above, or ``all``: the sum in the denominator is over all
            k != i, as in supervised contrastive learning.
        temperature: greater than zero.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    positives, negatives = global_pairs(partitions, variant)
    return contrastive_loss(
        embeddings,
        positives,
        temperature=temperature,
        negatives=negatives if denominator == "negatives" else None,
    )


def regions_of(maps: Tensor, side: int) -> Tensor:
    """The 13 regions of each map that the local loss compares, as vectors.

    Their places are a 3x3 grid from corner to corner and the middles of its four cells. Neighbours
    overlap if the map is smaller than 5 regions.

    Args:
        maps: (B, C, H, W), with H and W at least ``side`` + 4.
        side: extent of a region in pixels of the map.

    Returns:
        (B, 13, C * side * side).
    """
    height, width = (extent - side for extent in maps.shape[-2:])
    corners = [(height * y // 4, width * x // 4) for y, x in _QUARTERS]
    return torch.stack(
        [maps[:, :, y : y + side, x : x + side].flatten(1) for y, x in corners], dim=1
    )


def local_contrastive_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """The local loss, Eq. 3 and 4 of Chaitanya et al. 2020, over pairs of maps.

    With f_u and g_u the regions u of the two maps of a pair at unit length, and T the temperature,

        l_u(f, g) = -log( exp(f_u.g_u / T) / (exp(f_u.g_u / T)
                          + sum_{v != u} (exp(f_u.f_v / T) + exp(f_u.g_v / T))) )

    The loss is the mean of l_u(f, g) and l_u(g, f) over all regions and pairs.

    Args:
        first: (P, A, D), the A regions of one map of each of P pairs.
        second: (P, A, D), those of the other map.
        temperature: greater than zero.

    Returns:
        Scalar, in the dtype of the regions but at least float32.
    """
    z = unit(torch.cat([first, second], dim=1))
    n_pairs, n_regions = first.shape[:2]
    with torch.autocast(z.device.type, enabled=False):  # else a product of bfloat16
        logits = z @ z.transpose(1, 2) / temperature
    itself = torch.eye(2 * n_regions, dtype=torch.bool, device=z.device)
    logits = logits.masked_fill(itself, torch.finfo(logits.dtype).min)
    numbers = torch.arange(n_regions, device=z.device)
    targets = torch.cat([numbers + n_regions, numbers]).repeat(n_pairs)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets)


def partners_of(partitions: Tensor, volumes: Tensor) -> Tensor:
    """For each slice, another slice of the same partition from another volume.

    It is the next such slice of the batch. After the last slice, the search goes on from the first.
    A slice that finds none is its own partner.

    Args:
        partitions: (N,), the partition of each slice.
        volumes: (N,), the volume of each slice.

    Returns:
        (N,) int64, the row of each partner.
    """
    n = len(partitions)
    numbers = torch.arange(n, device=partitions.device)
    fits = (partitions[:, None] == partitions) & (volumes[:, None] != volumes)
    ahead = (numbers - numbers[:, None]) % n
    return (numbers + ahead.masked_fill(~fits, n).amin(dim=1)) % n


class GlobalLocalContrast(PretextMethod):
    """The encoder by whole slices, then, with the encoder as it is, the decoder by regions.

    Regions are compared in the decoder's maps, so the number of input channels does not matter.
    """

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            temperature: temperature of the softmax, in both stages.
            global_variant: the encoder's loss by its name in the paper: ``GR``, ``GD-`` or ``GD``.
            partitions: number of equal parts that the positions are cut into.
            denominator: ``negatives`` (with the positive) or ``all`` other views.
            local: share of the steps, the last ones, that train the decoder. 0: encoder only.
            local_variant: the decoder's loss: ``LR`` or ``LD``.
            decoder_blocks: number of decoder levels to train. None: all except the finest.
            region: extent of a region in pixels of the decoder's map.
        """

        temperature: PositiveFloat = 0.1
        global_variant: GlobalVariant = "GD"
        partitions: int = Field(4, ge=2)
        denominator: Denominator = "negatives"
        local: float = Field(0.3, ge=0, lt=1)
        local_variant: LocalVariant = "LR"
        decoder_blocks: PositiveInt | None = None
        region: PositiveInt = 3

        @model_validator(mode="after")
        def _has_effect(self) -> Self:
            if self.denominator == "all" and self.global_variant == "GD-":
                raise ValueError("denominator all makes GD- the same as GR; use that, or GD")
            unused = [] if self.local else ["local_variant", "decoder_blocks", "region"]
            if self.global_variant == "GR":
                unused.append("denominator")
                if not self.local or self.local_variant == "LR":
                    unused.append("partitions")
            for name in unused:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with the others; leave it out")
            return self

    summary = "contrast slices by part of the volume for the encoder, regions for the decoder"
    citation = "Chaitanya et al., NeurIPS 2020, arXiv 2006.10511"
    needs = "slices, their positions and volumes"

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.loss = loss
        self.head = ProjectionHead(encoder.feature_channels, head)
        self.decoder: Decoder | None = None
        if loss.local == 0:
            return
        levels = encoder.settings.levels
        blocks = loss.decoder_blocks or max(1, levels - 1)
        if blocks > levels:
            raise PosconError(
                f"setting loss.decoder_blocks = {blocks}: the network has {levels} levels"
            )
        if levels - blocks > encoder.even_levels:
            raise PosconError(
                f"setting loss.decoder_blocks = {blocks}: the decoder's map would have pixels that "
                f"are not square; use {levels - encoder.even_levels} or more"
            )
        self.stride = 2 ** (levels - blocks)
        self.decoder = build_decoder(encoder, blocks=blocks)
        self.parts = ("encoder", "decoder")
        channels = self.decoder.channels_of_map[-1]
        self.projection = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        ).apply(initialise)

    def check(self, total_steps: int, views: ViewMaker) -> None:
        if self.decoder is None:
            return
        extent = views.size // self.stride
        if extent < self.loss.region + 4:
            raise PosconError(
                f"setting loss.region = {self.loss.region}: the decoder's map has {extent} pixels, "
                "too few to tell regions apart; set size or loss.decoder_blocks higher, or local 0"
            )
        if (total_steps - 1) / total_steps < 1 - self.loss.local:
            raise PosconError(
                f"setting loss.local = {self.loss.local}: of {total_steps} step(s) none is left "
                "for the decoder; train longer, raise it or set it to 0"
            )

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        if self.decoder is None:
            return self._global_step(batch, views, seed)
        if progress < 1 - self.loss.local:
            return self._global_step(batch, views, seed)
        return self._local_step(self.decoder, batch, views, seed)

    def _global_step(self, batch: SliceBatch, views: ViewMaker, seed: int) -> Step:
        embeddings = self.head(self.encoder(two_views(batch, views, seed))[-1])
        how = self.loss
        partitions = partitions_of(batch.positions, how.partitions, self.position_limits)
        loss = global_contrastive_loss(
            embeddings,
            partitions,
            variant=how.global_variant,
            denominator=how.denominator,
            temperature=how.temperature,
        )
        positives, rest = global_pairs(partitions, how.global_variant)
        negatives = rest if how.denominator == "negatives" else None
        return Step(
            loss,
            chance=chance_level(positives, negatives),
            floor=floor_level(positives, negatives),
            logs={
                "global_loss": loss.detach(),
                "similarity": mean_similarity(embeddings),
            },
        )

    def _local_step(self, decoder: Decoder, batch: SliceBatch, views: ViewMaker, seed: int) -> Step:
        n = len(batch.images)
        features = self._frozen_features(self._local_views(batch, views, seed))
        regions = regions_of(self.projection(decoder(features)[-1]), self.loss.region)
        one, other = regions[:n], regions[n:]
        first, second = [one], [other]
        if self.loss.local_variant == "LD":
            assert batch.volumes is not None
            parts = partitions_of(batch.positions, self.loss.partitions, self.position_limits)
            partners = partners_of(parts, batch.volumes)
            has = partners != torch.arange(n, device=partners.device)
            first += [one[has], other[has]]
            second += [one[partners[has]], other[partners[has]]]
        loss = local_contrastive_loss(
            torch.cat(first), torch.cat(second), temperature=self.loss.temperature
        )
        # The loss of equal regions is no chance level. The untrained maps of two views that differ
        # only in intensity already distinguish places.
        return Step(
            loss,
            logs={
                "local_loss": loss.detach(),
                "similarity": mean_similarity(regions.flatten(0, 1)),
            },
        )

    def _local_views(self, batch: SliceBatch, views: ViewMaker, seed: int) -> Tensor:
        """(2N, channels, size, size): two views of every slice that differ in intensity only.

        For L^D all slices have the same geometry, so that places in different slices correspond.
        """
        n = len(batch.images)
        one, other = views.draw(n, seed, view=0), views.draw(n, seed, view=1)
        if self.loss.local_variant == "LD":
            shared = {name: values[:1].expand_as(values) for name, values in one.geometry.items()}
            one = replace(one, geometry=shared)
        pair = (one, with_intensity(one, other))
        return torch.cat([views.apply(batch.images, view) for view in pair])

    @torch.no_grad()
    def _frozen_features(self, images: Tensor) -> list[Tensor]:
        """The encoder's features. Its weights and its BatchNorm statistics do not change."""
        self.encoder.eval()
        features = self.encoder(images)
        self.encoder.train(self.training)
        return features
