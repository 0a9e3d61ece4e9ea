"""The published recipe's pipeline and loss (Zeng et al. 2021), rebuilt from public libraries."""

import math

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform
from batchgenerators.transforms.spatial_transforms import SpatialTransform
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.data import Dataset

from poscon.pretext.contrast import two_views
from poscon.pretext.pcl import PositionalContrast, near
from poscon.step import SliceBatch, Step
from poscon.training.data import SliceReader
from poscon.views import ViewMaker, ViewSettings
from versus.slices import image_file

init_worker = None
"""Nothing to do at the start of a worker: torch seeds NumPy."""


class SliceViews(Dataset):
    """Two views of a slice at a time; the whole volume is loaded for it.

    One warp with cubic splines and zeros outside, then intensity; the elastic field is a filtered
    noise as large as the slice, with nnU-Net's strength.
    """

    def __init__(self, reader: SliceReader, size: int, settings: ViewSettings) -> None:
        self.reader = reader
        angle = math.radians(settings.rotation)
        self.transform = Compose(
            [
                SpatialTransform(
                    (size, size),
                    random_crop=False,
                    alpha=(0.0, 900.0),
                    sigma=(9.0, 13.0),
                    angle_x=(-angle, angle),
                    scale=settings.scale,
                    border_mode_data="constant",
                    order_data=3,
                ),
                GammaTransform((1 / (1 + settings.gamma), 1 + settings.gamma)),
                ContrastAugmentationTransform((1 / (1 + settings.contrast), 1 + settings.contrast)),
                BrightnessTransform(0, settings.brightness),
                GaussianNoiseTransform((0, settings.noise)),
            ]
        )

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        volume = np.load(image_file(self.reader, index))
        image = volume[self.reader.slice_of[index]].astype(np.float32)[None, None]
        views = [self.transform(data=image.copy())["data"][0] for _ in range(2)]
        return torch.from_numpy(np.concatenate(views)), float(self.reader.positions[index])


def broadcast_loss(
    embeddings: Tensor, positions: Tensor, *, threshold: float, temperature: float
) -> Tensor:
    """The PCL loss by cosines of (1, B, D) with (B, 1, D), which makes (B, B, D) on the way.

    The same value as :func:`poscon.pretext.pcl.positional_contrastive_loss`, whose docstring has
    the formula and the arguments.
    """
    cosines = cosine_similarity(embeddings[None], embeddings[:, None], dim=-1)
    others = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    positives = near(positions, positions, threshold) & others
    exponentials = torch.exp(cosines / temperature)
    shares = exponentials / (exponentials * others).sum(dim=1, keepdim=True)
    n_positives = positives.sum(dim=1)
    per_anchor = -(shares.log() * positives).sum(dim=1)[n_positives > 0]
    return (per_anchor / n_positives[n_positives > 0]).sum() / max(1, len(per_anchor))


class PublishedContrast(PositionalContrast):
    """PCL with the loss in its broadcast form."""

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        embeddings = self.head(self.encoder(two_views(batch, views, seed))[-1])
        loss = broadcast_loss(
            embeddings,
            batch.positions.repeat(2),
            threshold=self.loss.threshold,
            temperature=self.loss.temperature,
        )
        return Step(loss)
