"""Supervised fine-tuning on augmented labelled slices."""

from typing import Literal

import torch
from torch import Tensor, nn

from poscon import settings
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker
from poscon.volumes.case import IGNORE

Terms = Literal["dice+ce", "ce"]


def supervised_loss(logits: Tensor, labels: Tensor, terms: Terms = "dice+ce") -> Tensor:
    """Cross-entropy, with or without soft Dice, over all labelled pixels.

    Args:
        logits: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices, ``IGNORE`` where a pixel is not labelled.
        terms: ``"dice+ce"`` or ``"ce"``, see :func:`masked_loss`.
    """
    return masked_loss(logits.float(), labels, torch.ones_like(labels, dtype=torch.bool), terms)


def masked_loss(logits: Tensor, labels: Tensor, mask: Tensor, terms: Terms = "dice+ce") -> Tensor:
    """Dice and cross-entropy over the labelled pixels of a mask, or cross-entropy alone.

    With p the softmax of the logits, y the labels as 0 and 1, and sums over the labelled pixels of
    the mask in the whole batch,

        L_seg = mean_{c > 0} (1 - (2 sum p_c y_c + e) / (sum p_c + sum y_c + e)) - mean log p_y

    with e = 1e-5 (Milletari et al. 2016; over all pixels it is MONAI's ``DiceCELoss``). Dice is
    taken over the whole batch, as if it was one volume. A slice without a class then does not count
    as a failure to find the class. If there is no such pixel, the loss is 0, and so is its
    gradient.

    Args:
        logits: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices, ``IGNORE`` where a pixel is not labelled.
        mask: (B, H, W) bool.
        terms: ``"dice+ce"`` as above, or ``"ce"``, the last term alone.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    counted = mask & (labels != IGNORE)
    entropy = _cross_entropy(wide, labels, counted)
    if terms == "ce":
        return entropy
    inside = counted[:, None]
    classes = torch.arange(1, logits.shape[1], device=labels.device)
    truth = (labels[:, None] == classes[:, None, None]) & inside
    foreground = wide.softmax(dim=1)[:, 1:] * inside
    overlap = (foreground * truth).sum((0, 2, 3))
    total = foreground.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    dice = (2 * overlap + 1e-5) / (total + 1e-5)
    return (1 - dice).mean() + entropy


def _cross_entropy(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """The mean over the pixels that count; 0 if there is none."""
    classes = labels.long().masked_fill(~counted, IGNORE)
    entropy = nn.functional.cross_entropy(logits, classes, ignore_index=IGNORE, reduction="sum")
    return entropy / counted.sum().clamp(min=1)


class Supervised(FinetuneMethod):
    """One augmented view of every labelled slice."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            terms: ``dice+ce``, or ``ce`` as in Zeng et al. 2021.
        """

        terms: Terms = "dice+ce"

    summary = "Dice and cross-entropy on the labelled slices"
    citation = "Ronneberger et al., MICCAI 2015; Isensee et al., Nature Methods 2021"
    needs = "labelled slices"

    loss: Settings

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        images = views.apply(batch.images, view)
        labels = views.apply_to_labels(batch.labels, view)
        loss = over_resolutions(
            lambda logits, s: supervised_loss(logits, labels[:, ::s, ::s], self.loss.terms),
            self.logits(images),
        )
        return Step(loss)
