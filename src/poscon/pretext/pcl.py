"""PCL: positional contrastive learning (Zeng et al., MICCAI 2021, arXiv 2106.09157)."""

from functools import partial
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from poscon import settings
from poscon.networks.embedding import embed
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.blockwise import Related
from poscon.pretext.contrast import contrast, two_views
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

ROUNDING = 1e-5
"""A distance must be below the threshold by this share of it. Rounding of positions is smaller."""

Kernel = Literal["box", "triangular", "gaussian"]
REACH: dict[Kernel, float] = {"box": 1.0, "triangular": 1.0, "gaussian": 3.0}
"""The distance in thresholds from which on the weight is 0. There a Gaussian has fallen to 0.011.
It is cut, so that an anchor far from all others has no positive, and a grey zone can begin."""


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
    return _below(_distances(anchors, positions), threshold)


def kernel_weights(
    anchors: Tensor, positions: Tensor, *, kernel: Kernel, threshold: float
) -> Tensor:
    """How much each position counts as a positive of each anchor.

    With d the distance and t the threshold, which is the width of the kernel:

    ==============  ======================  ===================
    kernel          weight                  for
    ==============  ======================  ===================
    ``box``         1                       d < t, see `near`
    ``triangular``  1 - d / t               d < t
    ``gaussian``    exp(-d^2 / (2 t^2))     d < 3 t
    ==============  ======================  ===================

    Everywhere else the weight is 0.

    Args:
        anchors: (A,) positions.
        positions: (B,).
        kernel: its form.
        threshold: in units of the positions.

    Returns:
        (A, B): bool for ``box``, else in the dtype of the positions.
    """
    return _weights_of(_distances(anchors, positions), kernel, threshold)


def in_grey_zone(
    anchors: Tensor, positions: Tensor, *, kernel: Kernel, threshold: float, grey: float
) -> Tensor:
    """Which positions are too far from an anchor for a positive, and too near for a negative.

    Args:
        anchors: (A,) positions.
        positions: (B,).
        kernel: form of the kernel, whose weights are 0 in the grey zone.
        threshold: width of the kernel.
        grey: distance at which the grey zone ends, in units of the positions.

    Returns:
        (A, B) bool.
    """
    positives = near(anchors, positions, REACH[kernel] * threshold)
    return near(anchors, positions, grey) & ~positives


def phase_distances(anchors: Tensor, phases: Tensor) -> Tensor:
    """How far phases are from anchors on the cycle, at most half of it.

    Args:
        anchors: (A,) shares of a cycle, from 0 to 1.
        phases: (B,).

    Returns:
        (A, B), from 0 to 0.5: 0.95 and 0.05 are 0.1 apart.
    """
    apart = _distances(anchors, phases)
    return torch.minimum(apart, 1 - apart)


def phased_weights(
    anchors: Tensor, places: Tensor, *, kernel: Kernel, threshold: float, phase: float
) -> Tensor:
    """How much each slice of a cine counts as a positive of each anchor.

    It is the product of two kernels (:func:`kernel_weights`): that of the distance in position, and
    that of the distance in phase (:func:`phase_distances`), whose width is ``phase``. So a positive
    is near in both.

    Args:
        anchors: (A, 2) position and phase.
        places: (B, 2).
        kernel: form of both kernels.
        threshold: width in units of the positions.
        phase: width as a share of the cycle.

    Returns:
        (A, B): bool for ``box``, else in the dtype of the places.
    """
    levels = _weights_of(_distances(anchors[:, 0], places[:, 0]), kernel, threshold)
    phases = _weights_of(phase_distances(anchors[:, 1], places[:, 1]), kernel, phase)
    return levels & phases if kernel == "box" else levels * phases


def in_phased_grey_zone(
    anchors: Tensor,
    places: Tensor,
    *,
    kernel: Kernel,
    threshold: float,
    grey: float,
    phase: float,
) -> Tensor:
    """The grey zone of a cine: :func:`in_grey_zone` by position, among slices of a near phase.

    A slice at another phase of the cycle is a negative at every level, also at the same one.

    Args:
        anchors: (A, 2) position and phase.
        places: (B, 2).
        kernel: form of both kernels, see :func:`phased_weights`.
        threshold: width in units of the positions.
        grey: distance in position at which the grey zone ends.
        phase: width as a share of the cycle.

    Returns:
        (A, B) bool.
    """
    zone = in_grey_zone(anchors[:, 0], places[:, 0], kernel=kernel, threshold=threshold, grey=grey)
    return zone & _below(phase_distances(anchors[:, 1], places[:, 1]), REACH[kernel] * phase)


def _distances(anchors: Tensor, positions: Tensor) -> Tensor:
    return (anchors[:, None] - positions).abs()


def _below(distances: Tensor, threshold: float) -> Tensor:
    return distances < threshold * (1 - ROUNDING)


def _weights_of(distances: Tensor, kernel: Kernel, threshold: float) -> Tensor:
    within = _below(distances, REACH[kernel] * threshold)
    if kernel == "box":
        return within
    widths = distances / threshold
    weights = 1 - widths if kernel == "triangular" else (-widths.square() / 2).exp()
    return weights.masked_fill(~within, 0)


def places_of(batch: SliceBatch, phase: float | None) -> Tensor:
    """What a contrast by position goes by.

    Args:
        batch: slices.
        phase: setting of the loss.

    Returns:
        (B,) positions of the slices; (B, 2) with their phases, if ``phase`` is set.
    """
    if phase is None:
        return batch.positions
    assert batch.phases is not None  # no training begins without them
    return torch.stack([batch.positions, batch.phases], dim=1)


def positional_contrast(
    embeddings: Tensor,
    places: Tensor,
    *,
    threshold: float,
    temperature: float,
    kernel: Kernel = "box",
    grey: float | None = None,
    phase: float | None = None,
) -> Step:
    """:func:`positional_contrastive_loss` with its chance level, floor and logs; same arguments."""
    related: Related = partial(kernel_weights, kernel=kernel, threshold=threshold)
    left_out: Related | None = None
    if grey is not None:
        left_out = partial(in_grey_zone, kernel=kernel, threshold=threshold, grey=grey)
    if phase is not None:
        related = partial(phased_weights, kernel=kernel, threshold=threshold, phase=phase)
        if grey is not None:
            left_out = partial(
                in_phased_grey_zone, kernel=kernel, threshold=threshold, grey=grey, phase=phase
            )
    return contrast(embeddings, places, related, temperature=temperature, left_out=left_out)


def positional_contrastive_loss(
    embeddings: Tensor,
    places: Tensor,
    *,
    threshold: float,
    temperature: float,
    kernel: Kernel = "box",
    grey: float | None = None,
    phase: float | None = None,
) -> Tensor:
    """The PCL loss, Eq. 1 and 2 of Zeng et al. 2021, with weights.

    With z the embeddings at unit length, p the positions, t the threshold, T the temperature and
    w_ij the kernel of |p_i - p_j| (:func:`kernel_weights`), anchor i has the positives
    P(i) = {j != i : w_ij > 0}, the grey zone G(i) (:func:`in_grey_zone`), and

        L_i = -1/W_i * sum_{j in P(i)} w_ij log( exp(z_i.z_j / T) / D_i ),    W_i = sum_j w_ij

    where D_i sums exp(z_i.z_k / T) over all k != i that are not in G(i). The paper has the kernel
    ``box`` and no grey zone: P(i) = {j != i : |p_i - p_j| < t} (strictly less), w_ij = 1 and
    W_i = |P(i)|. With ``phase``, w_ij and G(i) are those of :func:`phased_weights` and
    :func:`in_phased_grey_zone`.

    The loss is the mean of L_i over the anchors that have a positive. If no anchor has one, the
    loss is 0 and its gradient is 0. With a threshold of 0 or less there are no positives, not even
    another view at the same position. With the kernel ``box`` and a threshold above the range of
    the positions, every other view is a positive.

    Args:
        embeddings: (B, D), of any length other than zero. Each view of a slice has its own row. In
            a distributed training they are those of this process, and the loss is over all.
        places: (B,) positions; with ``phase`` (B, 2), position and phase.
        threshold: in units of the positions.
        temperature: greater than zero.
        kernel: how much a positive counts at its distance.
        grey: distance at which the grey zone ends, in units of the positions. None: there is none.
        phase: distance in phase below which slices are positives, as a share of the cycle. None:
            phases do not matter.

    Returns:
        Scalar, in the dtype of the embeddings but at least float32.
    """
    return positional_contrast(
        embeddings,
        places,
        threshold=threshold,
        temperature=temperature,
        kernel=kernel,
        grey=grey,
        phase=phase,
    ).loss


class PositionalSettings(settings.Settings):
    """The settings of a contrast by position.

    Attributes:
        threshold: slices closer than this are positives; with another kernel than ``box``, its
            width. It is in the unit of the positions: relative ones run from 0 to 1, and physical
            ones are in mm.
        kernel: how much a positive counts at its distance, see :func:`kernel_weights`.
        grey: slices that are too far for a positive and closer than this are no negatives either.
            None: all others are negatives.
        phase: for cines: positives are closer than this on the cycle too, as a share of it; with
            another kernel than ``box``, the width of the kernel there. None: phases do not matter.
        temperature: temperature of the softmax.
    """

    threshold: PositiveFloat = 0.1
    kernel: Kernel = "box"
    grey: PositiveFloat | None = None
    phase: PositiveFloat | None = None
    temperature: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        reach = REACH[self.kernel] * self.threshold
        if self.grey is not None and self.grey <= reach:
            raise ValueError(
                f"grey = {self.grey:g} has no effect, as kernel {self.kernel} with threshold = "
                f"{self.threshold:g} has positives up to {reach:g}; set more, or leave it out"
            )
        if self.phase is not None and self.phase > 0.5:
            raise ValueError(
                f"phase = {self.phase:g} is beyond half the cycle, and no two phases are further "
                "apart than 0.5; set less, or leave it out"
            )
        return self


class PositionalContrast(PretextMethod):
    """Two views of every slice. Positives are all views at nearly the same position."""

    class Settings(PositionalSettings):
        """Settings of the loss: those of a contrast by position."""

    summary = "contrast slices by position: near in any two patients = positive"
    citation = "Zeng et al., MICCAI 2021, arXiv 2106.09157"
    needs = "slices and their positions"
    distances = ("threshold", "grey")
    cyclic = ("phase",)
    in_processes = True
    uses_grad_cache = True

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.head: nn.Module = ProjectionHead(encoder.feature_channels, head)
        self.loss = loss

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        images = two_views(batch, views, seed)
        embeddings = embed(self.encoder, self.head, images, self.grad_cache_chunk)
        places = places_of(batch, self.loss.phase)
        return positional_contrast(
            embeddings,
            torch.cat([places, places]),
            threshold=self.loss.threshold,
            temperature=self.loss.temperature,
            kernel=self.loss.kernel,
            grey=self.loss.grey,
            phase=self.loss.phase,
        )
