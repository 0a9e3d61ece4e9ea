"""Supervised fine-tuning on augmented labelled slices."""

from typing import Literal

from monai.losses import DiceCELoss
from torch import Tensor, nn

from poscon import settings
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


def supervised_loss(
    logits: Tensor, labels: Tensor, terms: Literal["dice+ce", "ce"] = "dice+ce"
) -> Tensor:
    """Cross-entropy, with or without soft Dice (Milletari et al. 2016; MONAI's ``DiceCELoss``).

    Dice is taken over the foreground classes and over the whole batch, as if it was one volume. A
    slice without a class then does not count as a failure to find the class.

    Args:
        logits: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices.
        terms: ``"dice+ce"`` or ``"ce"``.
    """
    if terms == "ce":
        return nn.functional.cross_entropy(logits.float(), labels)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return loss(logits.float(), labels[:, None])


def masked_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Dice and cross-entropy over some of the pixels. Over all pixels it is ``supervised_loss``.

    With p the softmax of the logits, y the labels as 0 and 1, and sums over the pixels of the mask
    in the whole batch,

        L_seg = mean_{c > 0} (1 - (2 sum p_c y_c + e) / (sum p_c + sum y_c + e)) - mean log p_y

    with e = 1e-5. If the mask is empty, it is 0.

    Args:
        logits: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices.
        mask: (B, H, W) bool.

    Returns:
        Scalar, in the dtype of the logits but at least float32.
    """
    wide = logits if logits.dtype.itemsize > 2 else logits.float()
    entropy = nn.functional.cross_entropy(wide, labels, reduction="none")
    inside = mask[:, None]
    truth = nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:] * inside
    foreground = wide.softmax(dim=1)[:, 1:] * inside
    overlap = (foreground * truth).sum((0, 2, 3))
    total = (foreground + truth).sum((0, 2, 3))
    dice = (2 * overlap + 1e-5) / (total + 1e-5)
    return (1 - dice).mean() + (entropy * mask).sum() / mask.sum().clamp(min=1)


class Supervised(FinetuneMethod):
    """One augmented view of every labelled slice."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            terms: ``dice+ce``, or ``ce`` as in Zeng et al. 2021.
        """

        terms: Literal["dice+ce", "ce"] = "dice+ce"

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
