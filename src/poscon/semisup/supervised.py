"""Supervised fine-tuning: the labelled slices, augmented, and nothing else."""

from typing import Literal

from monai.losses import DiceCELoss
from pydantic import Field
from torch import Tensor, nn

from poscon import settings
from poscon.networks.unet import UNet
from poscon.semisup.base import FinetuneMethod, over_resolutions
from poscon.semisup.teacher import Teacher
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker, apply_view, apply_view_to_labels


def supervised_loss(
    scores: Tensor, labels: Tensor, terms: Literal["dice+ce", "ce"] = "dice+ce"
) -> Tensor:
    """Cross-entropy, with or without soft Dice (Milletari et al. 2016; MONAI's ``DiceCELoss``).

    Dice is taken over the foreground classes and over the batch as one volume, so that a slice
    without a class does not count as a failure to find it.

    Args:
        scores: (B, classes, H, W) before the softmax.
        labels: (B, H, W) class indices.
        terms: ``"dice+ce"`` or ``"ce"``.
    """
    if terms == "ce":
        return nn.functional.cross_entropy(scores.float(), labels)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return loss(scores.float(), labels[:, None])


class Supervised(FinetuneMethod):
    """One augmented view of every labelled slice."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            terms: ``dice+ce``, or ``ce`` as in Zeng et al. 2021.
            average: decay of a moving average of the weights, which is then the result; 0: none,
                the result is the last weights.
        """

        terms: Literal["dice+ce", "ce"] = "dice+ce"
        average: float = Field(0.0, ge=0, lt=1)

    summary = "Dice and cross-entropy on the labelled slices"
    citation = "Ronneberger et al., MICCAI 2015; Isensee et al., Nature Methods 2021"
    needs = "labelled slices"

    def __init__(self, network: UNet, loss: Settings, deep_supervision: int = 0) -> None:
        super().__init__(network, loss, deep_supervision)
        self.loss = loss
        self.averaged = Teacher(network, loss.average) if loss.average > 0 else None

    @property
    def model(self) -> UNet:
        """The average, if one is kept."""
        return self.network if self.averaged is None else self.averaged.network

    def after_step(self) -> None:
        if self.averaged is not None:
            self.averaged.update(self.network)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        images = apply_view(batch.images, view, views.size)
        labels = apply_view_to_labels(batch.labels, view, views.size)
        loss = over_resolutions(
            lambda scores, s: supervised_loss(scores, labels[:, ::s, ::s], self.loss.terms),
            self.scores(images),
        )
        return Step(loss)
