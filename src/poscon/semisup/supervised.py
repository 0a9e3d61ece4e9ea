"""Supervised fine-tuning: the labelled slices, augmented, and nothing else."""

from collections.abc import Sequence
from typing import Literal

import torch
from monai.losses import DiceCELoss
from pydantic import NonNegativeInt
from torch import Tensor, nn

from poscon import settings
from poscon.errors import PosconError
from poscon.networks.unet import UNet, initialise
from poscon.semisup.base import FinetuneMethod
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


def deep_supervision_loss(
    scores: Sequence[Tensor], labels: Tensor, terms: Literal["dice+ce", "ce"] = "dice+ce"
) -> Tensor:
    """The supervised loss at several resolutions (Lee et al. 2015; Isensee et al. 2021).

    Each halving of the resolution halves the weight; the weights sum to 1. Labels are brought to a
    coarser grid by taking the nearest pixel.

    Args:
        scores: (B, classes, H / 2^k, W / 2^k) for k = 0, 1, ..., finest first.
        labels: (B, H, W) class indices.
        terms: see :func:`supervised_loss`.
    """
    weights = [0.5**k for k in range(len(scores))]
    losses = torch.stack(
        [supervised_loss(s, labels[:, :: 2**k, :: 2**k], terms) for k, s in enumerate(scores)]
    )
    return (losses * losses.new_tensor(weights)).sum() / sum(weights)


class Supervised(FinetuneMethod):
    """One augmented view of every labelled slice."""

    class Settings(settings.Settings):
        """Settings of the loss.

        Attributes:
            terms: ``dice+ce``, or ``ce`` as in Zeng et al. 2021.
            deep_supervision: at how many coarser resolutions the decoder is supervised too.
        """

        terms: Literal["dice+ce", "ce"] = "dice+ce"
        deep_supervision: NonNegativeInt = 0

    summary = "Dice and cross-entropy on the labelled slices"
    citation = "Ronneberger et al., MICCAI 2015; Isensee et al., Nature Methods 2021"
    needs = "labelled slices"

    def __init__(self, network: UNet, loss: Settings) -> None:
        super().__init__(network, loss)
        self.loss = loss
        width, levels = network.settings.width, network.settings.levels
        if loss.deep_supervision >= levels:
            raise PosconError(
                f"setting loss.deep_supervision = {loss.deep_supervision}: a network of {levels} "
                f"levels has {levels - 1} coarser resolutions to supervise"
            )
        self.coarse = nn.ModuleList(
            nn.Conv2d(width * 2**k, network.n_classes, 1)
            for k in range(1, loss.deep_supervision + 1)
        )
        self.coarse.apply(initialise)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        view = views.draw(len(batch.images), seed)
        images = apply_view(batch.images, view, views.size)
        labels = apply_view_to_labels(batch.labels, view, views.size)
        *coarser, finest = self.network.decoder(self.network.encoder(images))
        scores = [self.network.classifier(finest)]
        for classifier, features in zip(self.coarse, reversed(coarser), strict=False):
            scores.append(classifier(features))
        return Step(deep_supervision_loss(scores, labels, self.loss.terms))
