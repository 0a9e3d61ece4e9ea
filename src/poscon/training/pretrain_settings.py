"""The settings of pre-training, and the training that is made from them."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from msgspec.structs import replace
from pydantic import Field, PositiveInt, model_validator

from poscon.distributed import n_processes
from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings, fit_channels
from poscon.pretext import find_method
from poscon.pretext.base import PretextMethod
from poscon.progress import console
from poscon.seeds import stream
from poscon.settings import Settings
from poscon.store.manifest import CaseRecord
from poscon.store.placing import place_cases
from poscon.store.store import Store
from poscon.training.configuration import TrainingSettings, check_distances, check_size
from poscon.training.data import SliceReader, UnlabelledBatches
from poscon.training.samplers import SamplerName
from poscon.views import ViewMaker, canvas_size

CHUNK_STEPS = 500


class PretrainSettings(TrainingSettings):
    """The settings of ``poscon pretrain``, on top of those of all training.

    Attributes:
        method: pre-training method, see ``poscon methods``.
        network: settings of the architecture.
        head: settings of the projection head.
        epochs: how often every slice is seen.
        batch: slices per step. Each gives two views.
        sampler: how the slices of a batch are chosen, see :mod:`poscon.training.samplers`.
        grad_cache_chunk: largest number of views that go through the network at once; None: all.
            The loss still covers the whole batch, see docs/explanation/loss-at-scale.md.
    """

    method: str = "pcl"
    network: NetworkSettings = NetworkSettings()
    head: HeadSettings = HeadSettings()
    epochs: PositiveInt = 10
    batch: int = Field(64, ge=2)
    sampler: SamplerName = "uniform"
    grad_cache_chunk: int | None = Field(None, ge=2)

    @classmethod
    def method_class(cls, name: str) -> type[PretextMethod]:
        return find_method(name)

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for name in without_effect(self.method):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                nothing = "{}" if isinstance(default, Settings) else default
                nothing = "null" if nothing is None else nothing
                raise ValueError(
                    f"{name} has no effect with method {self.method}; leave it out (what a recipe "
                    f"says of it goes with --set {name}={nothing})"
                )
        if self.grad_cache_chunk is not None and self.grad_cache_chunk >= 2 * self.batch:
            raise ValueError(
                f"grad_cache_chunk = {self.grad_cache_chunk} has no effect with "
                f"batch = {self.batch}, which gives {2 * self.batch} "
                "views; set fewer, or leave it out"
            )
        return self


def without_effect(method: str) -> list[str]:
    """The settings that a pre-training method does not use."""
    found = find_method(method)
    unused = [] if found.has_head else ["head"]
    unused += [] if found.uses_grad_cache else ["grad_cache_chunk"]
    if not found.trains:
        unused += ["epochs", "batch", "sampler", "optimiser", "precision", "compile", "logger"]
    return unused


class Assembly(NamedTuple):
    """A pre-training, ready to run: the method, its views and its batches."""

    learner: PretextMethod
    reader: SliceReader
    views: ViewMaker
    batches: UnlabelledBatches


def assemble(
    chosen: PretrainSettings, store: Store, cases: Sequence[CaseRecord], size: int
) -> Assembly:
    """Make a pre-training from its settings. The method has a fresh encoder.

    Learned positions of a store that is not aligned are learned here, of these cases alone.

    Args:
        chosen: the settings.
        store: store that holds the cases.
        cases: the cases to train on.
        size: extent of the views in pixels.

    Raises:
        PosconError: there is only one slice, the cases cannot be placed by their images, or the
            method cannot train with these settings.
    """
    network = fit_channels(chosen.network, store.channels, store.path)
    views = ViewMaker(chosen.views, size, store.channels)
    canvas = canvas_size(size, chosen.views)
    if chosen.position == "learned" and any(case.axis is None for case in cases):
        placed = place_cases(store, cases, chosen.seed)
        if placed.believed.source == "scan":
            console.print(f"note: {placed.summary}", soft_wrap=True, markup=False)
        cases = [replace(case, axis=placed.axis[case.id]) for case in cases]
    reader = SliceReader(store, cases, canvas, network.context, chosen.position)
    if len(reader) < 2:
        raise PosconError(f"{store.path}: one slice alone has nothing to be contrasted with")
    check_distances(chosen, [reader])
    method = find_method(chosen.method)
    if n_processes() > 1 and not method.in_processes:
        raise PosconError(f"--method {chosen.method}: trains in one process only, without torchrun")
    torch.manual_seed(stream(chosen.seed, "initialisation"))
    settings = method.Settings(**chosen.loss)
    encoder = build_encoder(network)
    check_size(size, encoder)
    learner = method(encoder, chosen.head, settings, len(reader))
    learner.grad_cache_chunk = chosen.grad_cache_chunk
    learner.position_limits = reader.limits
    batches = UnlabelledBatches(
        reader, chosen.batch, chosen.epochs, chosen.seed, CHUNK_STEPS, chosen.sampler
    )
    learner.check(batches.total_steps, views)
    return Assembly(learner, reader, views, batches)
