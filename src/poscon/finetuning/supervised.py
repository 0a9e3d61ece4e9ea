"""Supervised fine-tuning on augmented labelled slices."""

from typing import Literal

from monai.losses import DiceCELoss
from torch import Tensor, nn

from poscon import settings
from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.networks.parts import SegmentationNetwork
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

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: Settings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(network, loss, deep_supervision, ema_decay)
        self.loss = loss

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
