"""PCL and MAE at once: contrast by position, and restore what one of the views hides.

This project combines Zeng et al. (MICCAI 2021, arXiv 2106.09157) and He et al. (CVPR 2022, arXiv
2111.06377). Contrast alone leaves the decoder untrained. Restoring alone does not tell the encoder
which slices of two patients show the same anatomy.
"""

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from poscon.networks.build import build_decoder
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.parts import Encoder
from poscon.pretext.base import PretextMethod
from poscon.pretext.mae import count_hidden, masked_error, masked_views, spread, to_pixels
from poscon.pretext.pcl import PositionalSettings, places_of, positional_contrast
from poscon.step import SliceBatch, Step
from poscon.views import ViewMaker


class ContrastAndRestore(PretextMethod):
    """Two views of every slice, one of them with most patches set to zero.

    All 2B embeddings are contrasted by position, and the decoder restores the hidden patches. With
    several input channels see :func:`poscon.pretext.mae.masked_views`.
    """

    class Settings(PositionalSettings):
        """Settings of the loss, besides those of the contrast by position.

        Attributes:
            patch: extent of a patch in pixels of the view.
            ratio: share of the patches that are hidden.
            weight: weight of the reconstruction. The contrast has the weight 1.
        """

        patch: PositiveInt = 8
        ratio: float = Field(0.75, gt=0, lt=1)
        weight: PositiveFloat = 1.0

    summary = "contrast slices by position and restore hidden patches; trains the decoder too"
    citation = "poscon's own, of Zeng et al. (arXiv 2106.09157) and He et al. (arXiv 2111.06377)"
    needs = "slices and their positions"
    distances = ("threshold", "grey")
    cyclic = ("phase",)
    in_processes = True
    parts = ("encoder", "decoder")

    def __init__(self, encoder: Encoder, head: HeadSettings, loss: Settings, n_slices: int) -> None:
        super().__init__(encoder, head, loss, n_slices)
        self.head: nn.Module = ProjectionHead(encoder.feature_channels, head)
        self.decoder = build_decoder(encoder)
        self.to_pixels = to_pixels(self.decoder, encoder.settings)
        self.loss = loss

    def check(self, total_steps: int, views: ViewMaker) -> None:
        count_hidden(views.size, patch=self.loss.patch, ratio=self.loss.ratio)

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        visible, target, hidden = masked_views(
            batch.images,
            views,
            seed,
            self.encoder.settings.own_slice,
            patch=self.loss.patch,
            ratio=self.loss.ratio,
        )
        whole = views(batch.images, seed, view=1)
        features = self.encoder(torch.cat([visible, whole]))
        places = places_of(batch, self.loss.phase)
        by_position = positional_contrast(
            self.head(features[-1]),
            torch.cat([places, places]),
            threshold=self.loss.threshold,
            temperature=self.loss.temperature,
            kernel=self.loss.kernel,
            grey=self.loss.grey,
            phase=self.loss.phase,
        )
        of_visible = [level[: len(visible)] for level in features]
        restored = self.to_pixels(self.decoder(of_visible)[-1])
        error = masked_error(restored, target, hidden)
        assert by_position.chance is not None
        return Step(
            by_position.loss + self.loss.weight * error,
            chance=by_position.chance + self.loss.weight * spread(target, hidden),
            floor=by_position.floor,
            logs={
                **by_position.logs,
                "contrast": by_position.loss.detach(),
                "reconstruction": error.detach(),
            },
        )
