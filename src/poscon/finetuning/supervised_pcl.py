"""Supervised training together with PCL on labelled and unlabelled slices.

This combination is the project's own. An encoder may forget what it has learned from the unlabelled
patients within a few hundred steps on two labelled patients. Here the unlabelled slices remain part
of each step, and are contrasted by position (Zeng et al., MICCAI 2021, arXiv 2106.09157).
"""

import torch
from pydantic import PositiveFloat

from poscon.finetuning.base import FinetuneMethod, over_resolutions
from poscon.finetuning.supervised import supervised_loss
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.parts import SegmentationNetwork
from poscon.pretext.contrast import two_views
from poscon.pretext.pcl import PositionalSettings, places_of, positional_contrastive_loss
from poscon.seeds import stream
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class SupervisedWithContrast(FinetuneMethod):
    """The supervised loss, and the PCL loss over all views of the batch.

    A labelled slice has one view, which is segmented. An unlabelled slice has two views.
    """

    class Settings(PositionalSettings):
        """Settings of the loss, besides those of the contrast by position.

        Attributes:
            weight: weight of the contrast. The supervised loss has the weight 1.
        """

        weight: PositiveFloat = 1.0

    summary = "the supervised loss, and PCL over labelled and unlabelled slices beside it"
    citation = "poscon's own, of Zeng et al., MICCAI 2021, arXiv 2106.09157"
    needs = "labelled and unlabelled slices, and their positions"
    distances = ("threshold", "grey")
    cyclic = ("phase",)
    uses_unlabelled = True
    uses_positions = True

    loss: Settings

    def __init__(
        self,
        network: SegmentationNetwork,
        loss: Settings,
        deep_supervision: int = 0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(network, loss, deep_supervision, ema_decay)
        self.head = ProjectionHead(network.encoder.feature_channels, HeadSettings())

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        assert batch.labels is not None
        assert batch.unlabelled is not None
        view, n = views.draw(len(batch.images), seed), len(batch.images)
        labels = views.apply_to_labels(batch.labels, view)
        images = views.apply(batch.images, view)
        without = two_views(batch.unlabelled, views, stream(seed, "unlabelled"))
        features = self.network.encoder(torch.cat([images, without]))
        supervised = over_resolutions(
            lambda logits, s: supervised_loss(logits, labels[:, ::s, ::s]),
            self.logits_of([level[:n] for level in features]),
        )
        unlabelled = places_of(batch.unlabelled, self.loss.phase)
        contrast = positional_contrastive_loss(
            self.head(features[-1]),
            torch.cat([places_of(batch, self.loss.phase), unlabelled, unlabelled]),
            threshold=self.loss.threshold,
            temperature=self.loss.temperature,
            kernel=self.loss.kernel,
            grey=self.loss.grey,
            phase=self.loss.phase,
        )
        return Step(
            supervised + self.loss.weight * contrast,
            logs={"supervised": supervised.detach(), "contrast": contrast.detach()},
        )
