"""FixMatch for segmentation: weak-to-strong consistency with a teacher (Sohn et al., NeurIPS 2020).

A network labels a weakly changed view of an unlabelled slice. Where it is confident, that label is
what it has to find in a strongly changed view of the same slice. UniMatch
(:mod:`poscon.finetuning.unimatch`) adds a second strong view and perturbed features.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from poscon import settings
from poscon.errors import PosconError
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.finetuning.consistency import probabilities
from poscon.finetuning.guard import ClassGuard
from poscon.finetuning.supervised import Terms, masked_loss, supervised_loss
from poscon.networks.layers import statistics_kept
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import View, ViewMaker, ViewSettings, with_intensity

SMALL = 1e-6


def pseudo_labels(
    logits: Tensor, threshold: float, possible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The most probable class of each pixel, and whether it is probable enough.

    With p the softmax of the logits over the possible classes, argmax_c p_c and
    max_c p_c >= threshold (Sohn et al. 2020, Eq. 4, for every pixel). So p is the probability of a
    class, given that no impossible class is there.

    Args:
        logits: (B, classes, H, W) before the softmax.
        threshold: least probability that counts.
        possible: (B, classes) bool, at least one class a row; None: all are.

    Returns:
        (B, H, W) int64 class indices, and (B, H, W) bool.
    """
    if possible is not None:
        logits = logits.masked_fill(~possible[:, :, None, None], -math.inf)
    confidence, labels = probabilities(logits).max(dim=1)
    return labels, confidence >= threshold


def draw_boxes(
    n: int,
    size: int,
    seed: int,
    *,
    probability: float,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Tensor:
    """Draw the boxes of CutMix (Yun et al., ICCV 2019, arXiv 1905.04899) as in UniMatch.

    A box has an area drawn evenly from ``area`` and a ratio of height to width drawn evenly from
    ``aspect``. It is cut to the view where it is longer, and lies inside it. Every place is as
    likely as every other.

    Args:
        n: how many.
        size: extent of the views in pixels.
        seed: seed of the draws.
        probability: how often a view has a box.
        area: smallest and largest share of the view.
        aspect: smallest and largest ratio of height to width.

    Returns:
        (n, size, size) bool, True inside the box.
    """
    generator = torch.Generator().manual_seed(stream(seed, "boxes"))
    has, share, ratio, top, left = torch.rand(5, n, generator=generator)
    share = area[0] + share * (area[1] - area[0])
    ratio = aspect[0] + ratio * (aspect[1] - aspect[0])
    pixel = torch.arange(size)
    inside = []
    for side, place in (((share * ratio).sqrt(), top), ((share / ratio).sqrt(), left)):
        extent = (side * size).round().clamp(1, size)
        first = (place * (size - extent + 1)).floor()
        inside.append((pixel >= first[:, None]) & (pixel < (first + extent)[:, None]))
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :] & (has < probability)[:, None, None]


def cut_mix(values: Tensor, boxes: Tensor, shift: int) -> Tensor:
    """Put into the boxes of each row what lies there in another row of the batch.

    Args:
        values: (B, ...), images or what is known of their pixels.
        boxes: (B, H, W) bool.
        shift: row i receives from row (i + shift) mod B.
    """
    boxes = boxes if values.ndim == 3 else boxes[:, None]
    return torch.where(boxes, values.roll(-shift, dims=0), values)


def stronger(views: ViewSettings, strength: float) -> ViewSettings:
    """The settings of strong views: all changes of intensity are larger and more frequent.

    Args:
        views: the settings of the labelled slices' views.
        strength: factor of every change of intensity and of its probability, which is at most 1.
    """
    return views.model_copy(
        update={
            "brightness": views.brightness * strength,
            "contrast": views.contrast * strength,
            "gamma": views.gamma * strength,
            "noise": views.noise * strength,
            "blur": views.blur * strength,
            "low_resolution": 1 + (views.low_resolution - 1) * strength,
            "intensity_probability": min(1.0, views.intensity_probability * strength),
        }
    )


def ramp(progress: float, first: float, last: float) -> float:
    """A weight that is 0 up to a share of the steps, 1 from another on, and linear between."""
    if last <= first:
        return float(progress >= first)
    return min(max((progress - first) / (last - first), 0.0), 1.0)


class WeakToStrongSettings(settings.Settings):
    """Settings of the consistency of strong views with a weak one.

    Attributes:
        weight: weight of the consistency; the supervised loss has 1.
        ramp_up: shares of the steps at which the weight begins to rise and is reached.
        threshold: pixels whose pseudo-label is less probable than this are left out.
        strength: see :func:`stronger`.
        cutmix: how often a box of another slice is put into a strong view.
        box_area: smallest and largest share of the view that a box takes.
        box_aspect: smallest and largest ratio of its height to its width.
        teacher: who labels: ``ema``, the moving average of the network (setting ``ema_decay``) with
            its running statistics; or ``self``, the network as it is, normalised by the batch.
    """

    weight: NonNegativeFloat = 1.0
    ramp_up: tuple[float, float] = (0.1, 0.3)
    threshold: float = Field(0.9, ge=0, lt=1)
    strength: NonNegativeFloat = 2.0
    cutmix: float = Field(1.0, ge=0, le=1)
    box_area: tuple[float, float] = (0.25, 0.25)
    box_aspect: tuple[float, float] = (1.0, 1.0)
    teacher: str = Field("ema", pattern="^(ema|self)$")

    @model_validator(mode="after")
    def _ordered(self) -> "WeakToStrongSettings":
        for name, largest in (("ramp_up", 1.0), ("box_area", 1.0), ("box_aspect", math.inf)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= largest or (name != "ramp_up" and low == 0):
                raise ValueError(f"{name} must be two rising numbers within 0 and {largest:g}")
        return self


class WeakToStrong(FinetuneMethod):
    """What FixMatch and UniMatch share: views, pseudo-labels, and CutMix of both."""

    uses_unlabelled = True
    uses_ranges = True
    has_pseudo_labels = True
    rising_log = "agreement"
    loss: WeakToStrongSettings
    guard: ClassGuard

    def check(self, total_steps: int, views: ViewMaker) -> None:
        if self.loss.teacher == "ema" and self.ema is None:
            raise PosconError(
                "setting ema_decay = 0: with loss.teacher = ema the moving average labels the "
                "unlabelled slices; set ema_decay above 0, or loss.teacher=self"
            )

    def labelled_view(
        self, batch: SliceBatch, views: ViewMaker, seed: int
    ) -> tuple[Tensor, Tensor]:
        """A view of every labelled slice and its labels."""
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        return views.apply(batch.images, view), views.apply_to_labels(batch.labels, view)

    def weak_view(self, slices: SliceBatch, views: ViewMaker, seed: int) -> tuple[Tensor, View]:
        """A view of every unlabelled slice with a new geometry and the slice's own intensity."""
        plain = views.settings.model_copy(update={"intensity_probability": 0.0})
        maker = views.with_settings(plain)
        view = maker.draw(len(slices.images), seed)
        return maker.apply(slices.images, view), view

    def strong_view(
        self, slices: SliceBatch, views: ViewMaker, weak: View, seed: int, number: int
    ) -> Tensor:
        """The weak view again, with large changes of intensity."""
        maker = views.with_settings(stronger(views.settings, self.loss.strength))
        drawn = maker.draw(len(slices.images), seed, view=number)
        return maker.apply(slices.images, with_intensity(weak, drawn))

    @torch.no_grad()
    def teach(self, images: Tensor, possible: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pseudo-labels of weak views (B, H, W), and which of them count.

        Args:
            images: (B, in_channels, H, W), the weak views.
            possible: (B, classes) bool, see :func:`pseudo_labels`.
        """
        if self.loss.teacher == "self":
            return pseudo_labels(self.network(images), self.loss.threshold, possible)
        assert self.ema is not None
        self.ema.network.eval()
        return pseudo_labels(self.ema(images), self.loss.threshold, possible)

    def boxes(self, n: int, size: int, seed: int, number: int) -> Tensor:
        """The CutMix boxes of one strong view."""
        return draw_boxes(
            n,
            size,
            stream(seed, "strong", number),
            probability=self.loss.cutmix if n > 1 else 0.0,
            area=self.loss.box_area,
            aspect=self.loss.box_aspect,
        )


def confident_loss(
    logits: Sequence[Tensor], labels: Tensor, confident: Tensor, terms: Terms
) -> Tensor:
    """The loss of the pixels that count, at every resolution.

    Args:
        logits: (B, classes, H / 2^k, W / 2^k) for k = 0, 1, ...
        labels: (B, H, W) pseudo-labels.
        confident: (B, H, W) bool.
        terms: see :func:`masked_loss`.
    """
    return over_resolutions(
        lambda part, s: masked_loss(part, labels[:, ::s, ::s], confident[:, ::s, ::s], terms),
        logits,
    )


@torch.no_grad()
def agreement(logits: Tensor, labels: Tensor, confident: Tensor) -> Tensor:
    """How well a network finds the pseudo-labels' foreground in strong views.

    With A the foreground that it finds and B that of the labels, both among the pixels that count,
    2 n / (|A| + |B|), where n counts the pixels of A and B with the same class.

    Args:
        logits: (B, classes, H, W) of the strong views.
        labels: (B, H, W) pseudo-labels.
        confident: (B, H, W) bool.

    Returns:
        Scalar in [0, 1]; 1 where nobody finds any foreground.
    """
    found = torch.where(confident, logits.max(dim=1).indices, 0)
    sought = torch.where(confident, labels, 0)
    same = ((found == sought) & (found > 0)).sum()
    return (2 * same + SMALL) / ((found > 0).sum() + (sought > 0).sum() + SMALL)


class FixMatch(WeakToStrong):
    """The supervised loss, and one strong view of every unlabelled slice."""

    class Settings(WeakToStrongSettings):
        """Settings of the loss.

        Attributes:
            terms: terms of the loss of unlabelled pixels: ``ce``, or ``dice+ce``, with which
                pseudo-labels may grow beyond the structures (docs/decisions/0051).
        """

        terms: Terms = "ce"

    summary = "find in a strongly changed view what a teacher is sure of in a weak one"
    citation = "Sohn et al., NeurIPS 2020, arXiv 2001.07685"
    needs = "labelled and unlabelled slices"
    loss: Settings

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.unlabelled is not None
        images, labels = self.labelled_view(batch, views, seed)
        own = stream(seed, "unlabelled")
        weak, view = self.weak_view(batch.unlabelled, views, own)
        strong = self.strong_view(batch.unlabelled, views, view, own, 1)
        targets, confident = self.teach(weak, batch.unlabelled.possible)
        trust = self.guard(labels, targets, progress)
        boxes = self.boxes(len(weak), views.size, own, 1).to(weak.device, non_blocking=True)
        strong, targets, confident = (
            cut_mix(part, boxes, shift=1) for part in (strong, targets, confident)
        )
        supervised = over_resolutions(
            lambda part, s: supervised_loss(part, labels[:, ::s, ::s]), self.logits(images)
        )
        if self.loss.teacher == "ema":
            with torch.no_grad():  # running statistics of scans without labels, as they are
                self.network(weak)
        with statistics_kept(self.network):  # no scan to segment looks like a strong view
            strong_logits = self.logits(strong)
        consistency = confident_loss(strong_logits, targets, confident, self.loss.terms)
        weight = self.loss.weight * ramp(progress, *self.loss.ramp_up)
        return Step(
            supervised + weight * (trust * consistency),
            logs={
                "supervised": supervised.detach(),
                "consistency": consistency.detach(),
                "confident": confident.float().mean(),
                "agreement": agreement(strong_logits[0], targets, confident),
                "lost_classes": self.guard.lost.sum(),
            },
        )
