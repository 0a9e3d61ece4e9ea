"""Training steps of positional contrast, by poscon and by its variants, to be measured."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count

import torch

from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext.contrast import two_views
from poscon.pretext.pcl import PositionalContrast, positional_contrastive_loss
from poscon.step import SliceBatch, Step
from poscon.training.optimisation import OptimiserSettings, build_optimiser
from poscon.views import ViewMaker
from versus.loading import ENDLESS, Batches
from versus.measuring import cores, rate


class Training:
    """Optimiser steps, one after another.

    Args:
        method: the loss and the network.
        views: makes the views of a batch, or takes them out of it.
        device: ``cpu`` or ``cuda``.
        bf16: bfloat16 autocast.
        optimiser: its kind and settings.
        threads: of torch, if other than what is set.
    """

    def __init__(
        self,
        method: PositionalContrast,
        views: ViewMaker,
        *,
        device: str,
        bf16: bool,
        optimiser: OptimiserSettings | None = None,
        threads: int | None = None,
    ) -> None:
        self.method = method.to(device)
        self.views = views
        self.device = device
        self.bf16 = bf16
        self.optimiser, _ = build_optimiser(
            method.parameters(), optimiser or OptimiserSettings(), ENDLESS
        )
        self.threads = threads
        self.seeds = count()

    def step(self, batches: Batches) -> None:
        batch = self._moved(next(batches))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.method.step(batch, self.views, next(self.seeds), 0.0).loss
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def make_views(self, batches: Batches) -> None:
        """The part of a step before the network."""
        two_views(self._moved(next(batches)), self.views, next(self.seeds))

    def per_second(
        self, work: Callable[[Batches], None], batches: Batches, seconds: float
    ) -> float:
        """How often a second ``work``, a step or the making of views, is done.

        As often at least as batches are made ahead, else it is they that are used up.
        """
        with batches.running(), cores(self.threads) if self.threads else nullcontext():
            return rate(partial(work, batches), seconds, self._finish, max(1, batches.ahead))

    def _moved(self, batch: SliceBatch) -> SliceBatch:
        """Images in single precision, and positions, where the network is."""
        return SliceBatch(
            batch.images.to(self.device, non_blocking=True).float(),
            batch.positions.to(self.device, torch.float32, non_blocking=True),
        )

    def _finish(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def contrast(
    width: int, method: type[PositionalContrast] = PositionalContrast
) -> PositionalContrast:
    """Positional contrast around a fresh encoder."""
    encoder = build_encoder(NetworkSettings(width=width))
    return method(encoder, HeadSettings(), PositionalContrast.Settings(), n_slices=0)


class TwoPasses(PositionalContrast):
    """The views go through the network one after the other, so BatchNorm sees one at a time."""

    def step(self, batch: SliceBatch, views: ViewMaker, seed: int, progress: float) -> Step:
        passes = two_views(batch, views, seed).chunk(2)
        embeddings = torch.cat([self.head(self.encoder(view)[-1]) for view in passes])
        loss = positional_contrastive_loss(
            embeddings,
            batch.positions.repeat(2),
            threshold=self.loss.threshold,
            temperature=self.loss.temperature,
        )
        return Step(loss)
