"""UniMatch: two strong views and perturbed features (Yang et al., CVPR 2023, arXiv 2208.09910)."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from poscon.finetuning.base import over_resolutions
from poscon.finetuning.consistency import probabilities
from poscon.finetuning.fixmatch import (
    WeakToStrong,
    WeakToStrongSettings,
    agreement,
    confident_loss,
    cut_mix,
    ramp,
)
from poscon.finetuning.supervised import supervised_loss
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker

SMOOTH = 1e-10


def confident_dice(logits: Tensor, labels: Tensor, confident: Tensor) -> Tensor:
    """The Dice loss of UniMatch's medical branch, on the pixels that count.

    With p the softmax of the logits, y the labels as 0 and 1, and sums over the pixels of the whole
    batch that count,

        L = mean_c ( 1 - (2 sum p_c y_c + e) / (sum p_c^2 + sum y_c^2 + e) ),    e = 1e-10

    over all classes, the background too.

    Args:
        logits: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices.
        confident: (B, H, W) bool.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    inside = confident[:, None]
    found = probabilities(logits) * inside
    truth = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1) * inside
    overlap = (found * truth).sum((0, 2, 3))
    total = found.square().sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def drop_channels(features: Sequence[Tensor], share: float, seed: int) -> list[Tensor]:
    """Set channels of features to zero, and scale the others up by 1 / (1 - share).

    Channel dropout (Tompson et al., CVPR 2015, ``torch.nn.Dropout2d``), drawn from a seed.

    Args:
        features: (B, C, H, W) at every level.
        share: how likely a channel is dropped; below 1.
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(stream(seed, "channels"))
    dropped = []
    for level in features:
        kept = torch.rand(level.shape[:2], generator=generator) >= share
        factor = (kept / (1 - share)).to(level.device, level.dtype, non_blocking=True)
        dropped.append(level * factor[:, :, None, None])
    return dropped


class UniMatch(WeakToStrong):
    """The supervised loss, two strong views, and the weak view with perturbed features."""

    class Settings(WeakToStrongSettings):
        """Settings of the loss; the defaults are the published ones (Yang et al. 2023, Sec. 3).

        The published loss is 1/2 [1/2 (CE + Dice) + 1/4 D(s1) + 1/4 D(s2) + 1/2 D(fp)]. Here the
        supervised loss CE + Dice has the weight 1, so ``weight`` is 2.

        Attributes:
            feature_dropout: share of the encoder's channels that is dropped from the weak view; 0
                switches this part off.
            terms: terms of the loss of unlabelled pixels: ``dice`` as published, ``dice+ce`` or
                ``ce``.
        """

        weight: NonNegativeFloat = 2.0
        ramp_up: tuple[float, float] = (0.0, 0.0)
        threshold: float = Field(0.95, ge=0, lt=1)
        cutmix: float = Field(0.5, ge=0, le=1)
        box_area: tuple[float, float] = (0.02, 0.4)
        box_aspect: tuple[float, float] = (0.3, 1 / 0.3)
        teacher: str = Field("self", pattern="^(ema|self)$")
        feature_dropout: float = Field(0.5, ge=0, lt=1)
        terms: Literal["dice", "dice+ce", "ce"] = "dice"

    summary = "FixMatch with two strong views and with perturbed features"
    citation = "Yang et al., CVPR 2023, arXiv 2208.09910"
    needs = "labelled and unlabelled slices"
    loss: Settings

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.unlabelled is not None
        images, labels = self.labelled_view(batch, views, seed)
        own = stream(seed, "unlabelled")
        weak, view = self.weak_view(batch.unlabelled, views, own)
        targets, confident = self.teach(weak, batch.unlabelled.possible)
        trust = self.guard(labels, targets, progress)
        parts = [images]
        answers = []
        for number in (1, 2):
            boxes = self.boxes(len(weak), views.size, own, number)
            boxes = boxes.to(weak.device, non_blocking=True)
            strong = self.strong_view(batch.unlabelled, views, view, own, number)
            shift = number if len(weak) > number else 1  # of two slices there is one other
            parts.append(cut_mix(strong, boxes, shift))
            answers.append([cut_mix(part, boxes, shift) for part in (targets, confident)])
        if self.loss.feature_dropout > 0:
            parts.append(weak)
            answers.append([targets, confident])
        counts = [len(part) for part in parts]
        features = [level.split(counts) for level in self.network.encoder(torch.cat(parts))]
        if self.loss.feature_dropout > 0:
            perturbed = drop_channels(
                [level[-1] for level in features], self.loss.feature_dropout, own
            )
            features = [
                (*level[:-1], last) for level, last in zip(features, perturbed, strict=True)
            ]
        logits = [
            level.split(counts)
            for level in self.logits_of([torch.cat(level) for level in features])
        ]
        supervised = over_resolutions(
            lambda part, s: supervised_loss(part, labels[:, ::s, ::s]), [p[0] for p in logits]
        )
        weights = (0.25, 0.25, 0.5)
        consistency = sum(
            weight * self._unlabelled([p[1 + k] for p in logits], *answer)
            for k, (weight, answer) in enumerate(zip(weights, answers, strict=False))
        )
        assert isinstance(consistency, Tensor)
        weight = self.loss.weight * ramp(progress, *self.loss.ramp_up)
        return Step(
            supervised + weight * (trust * consistency),
            logs={
                "supervised": supervised.detach(),
                "consistency": consistency.detach(),
                "confident": confident.float().mean(),
                "agreement": agreement(logits[0][1], *answers[0]),
                "lost_classes": self.guard.lost.sum(),
            },
        )

    def _unlabelled(self, logits: Sequence[Tensor], labels: Tensor, confident: Tensor) -> Tensor:
        if self.loss.terms == "dice":
            return over_resolutions(
                lambda part, s: confident_dice(part, labels[:, ::s, ::s], confident[:, ::s, ::s]),
                logits,
            )
        return confident_loss(logits, labels, confident, self.loss.terms)
