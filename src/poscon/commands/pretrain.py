"""``poscon pretrain``: unlabelled slices in, an encoder out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from pydantic import Field, PositiveInt, model_validator

from poscon.arguments import checked
from poscon.distributed import joined, n_processes, rank, wait_for_all
from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings, fit_channels
from poscon.networks.weights import save_weights
from poscon.pictures.diagnostics import draw_diagnostics
from poscon.pretext import find_method
from poscon.pretext.base import PretextMethod
from poscon.seeds import stream
from poscon.settings import GivenSettings, Recipe, Settings, resolve, validate
from poscon.store.selection import choose_cases, slice_size
from poscon.store.store import CaseRecord, Names, Store
from poscon.training.collapse import CollapseWatch, conclude
from poscon.training.configuration import TrainingSettings
from poscon.training.data import SliceReader, UnlabelledBatches
from poscon.training.diagnostics import Diagnostics, numbers
from poscon.training.inference import choose_device
from poscon.training.loop import train
from poscon.training.run import MetricsFile, RunFolder, inputs_record, part_file, refuse_with_resume
from poscon.training.samplers import SamplerName
from poscon.version import __version__
from poscon.views import ViewMaker, canvas_size

CHUNK_STEPS = 500
DIAGNOSTICS = "diagnostics.png"


class PretrainSettings(TrainingSettings):
    """The settings of ``poscon pretrain``, on top of those of all training.

    Attributes:
        method: pre-training method, see ``poscon methods``.
        network: the architecture.
        head: the projection head.
        epochs: how often every slice is seen.
        batch: slices a step; each gives two views.
        sampler: which slices a batch is made of, see :mod:`poscon.training.samplers`.
        grad_cache_chunk: most views that go through the network at once; None: all. The loss
            is over the whole batch all the same, see docs/explanation/loss-at-scale.md.
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
    """The settings that a pre-training method makes nothing of."""
    found = find_method(method)
    unused = [] if found.has_head else ["head"]
    unused += [] if found.uses_grad_cache else ["grad_cache_chunk"]
    if not found.trains:
        unused += ["epochs", "batch", "sampler", "optimiser", "precision", "compile"]
    return unused


@checked
def pretrain(
    store: Path | str,
    run: Path | str,
    *,
    method: str | None = None,
    cases: Names | None = None,
    exclude: Names | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    recipe: Recipe | None = None,
    settings: GivenSettings = (),
    device: str | None = None,
    resume: bool = False,
) -> Path:
    """Pre-train an encoder on the slices of a store. Labels are not looked at.

    Args:
        store: prepared data set.
        run: folder to write, see :mod:`poscon.training.run`.
        method: pre-training method; None: that of the recipe, else ``pcl``.
        cases: the cases or subjects to use: a file that names them (see
            :func:`poscon.store.store.read_names`), or a list of names; None: all.
        exclude: the subjects to leave out, such as the test subjects: a file or a list.
        epochs: how often every slice is seen; None: that of the recipe, else 10.
        seed: decides every random choice; None: that of the recipe, else 0.
        device: ``auto``, ``cpu`` or ``cuda``; None: that of the recipe, else ``auto``.
        recipe: name, file or content of a recipe with a ``pretrain`` section.
        settings: further settings, see :data:`poscon.settings.GivenSettings`.
        resume: continue an interrupted run; nothing but ``run``, ``store`` and ``device`` may be
            given.

    Returns:
        The encoder's file, ``RUN/encoder.safetensors``. A method that pre-trains the decoder too
        leaves ``RUN/decoder.safetensors`` beside it. How the training went is drawn in
        ``RUN/diagnostics.png``.

    Raises:
        PosconError: an unusable store, setting, selection or run folder.
    """
    folder = RunFolder(run)
    opened = Store(store)
    if resume:
        refuse_with_resume(
            [
                ("--method", method),
                ("--cases", cases),
                ("--exclude", exclude),
                ("--epochs", epochs),
                ("--seed", seed),
                ("--recipe", recipe),
                ("--set", settings),
            ]
        )
        request = Request.resume(folder, opened, device)
    else:
        folder.check_new()
        chosen = resolve(
            PretrainSettings,
            "pretrain",
            recipe,
            settings,
            method=method,
            epochs=epochs,
            seed=seed,
            device=device,
        )
        request = Request.from_arguments(opened, chosen, cases, exclude)
    hardware = choose_device(request.settings.device)
    with joined(hardware):
        _pretrain(request, folder, hardware)
    return part_file(folder.path, "encoder")


@dataclass(frozen=True)
class Request:
    """What is to be pre-trained, and on what.

    Attributes:
        store: the prepared data set.
        settings: every setting.
        cases: the cases to train on.
        size: extent of the views in pixels.
    """

    store: Store
    settings: PretrainSettings
    cases: list[CaseRecord]
    size: int

    @classmethod
    def from_arguments(
        cls,
        store: Store,
        settings: PretrainSettings,
        cases: Names | None,
        exclude: Names | None,
    ) -> Self:
        """A new training; the arguments are those of :func:`pretrain`.

        Raises:
            PosconError: a selection that cannot be used.
        """
        used = choose_cases(store, cases, exclude)
        size = slice_size(used, settings.size, settings.network.stride)
        network = fit_channels(settings.network, store.channels, store.path)
        settings = settings.model_copy(update={"size": size, "network": network})
        return cls(store, settings, used, size)

    @classmethod
    def resume(cls, folder: RunFolder, store: Store, device: str | None) -> Self:
        """The training of a run folder, on the same device or on another one.

        Raises:
            PosconError: the folder has no such run, or the store has changed.
        """
        config = folder.resume("pretrain")
        elsewhere = {} if device is None else {"device": device}
        settings = validate(PretrainSettings, {**config["settings"], **elsewhere})
        cases = folder.resume_cases("pretrain", store)["pretrain"]
        return cls(
            store, settings, cases, slice_size(cases, settings.size, settings.network.stride)
        )


def _pretrain(request: Request, run: RunFolder, device: str) -> None:
    """In each of the processes that there are; the first one writes."""
    chosen, store, cases = request.settings, request.store, request.cases
    learner, reader, views, batches = assemble(chosen, store, cases, request.size)
    learner.to(device)
    diagnostics = Diagnostics(learner.encoder, reader, views, stream(chosen.seed, "diagnostics"))
    if learner.trains:
        reader.hold_if_it_fits(device)
    metrics = MetricsFile(run.metrics_path)
    # before there is a folder, which a damaged store would leave behind
    before = None if metrics.rows() else {"step": 0, **diagnostics()}
    wait_for_all()
    if rank() == 0:
        if not run.begun:
            run.begin("pretrain", store, chosen.model_dump(mode="json"), {"pretrain": cases})
        if before is not None:
            metrics.append(before)
    wait_for_all()
    title = f"pre-training ({chosen.method})"
    if learner.trains:
        train(
            learner,
            views,
            batches,
            optimiser=chosen.optimiser,
            run=run,
            device=device,
            precision=chosen.precision,
            compiled=chosen.compile,
            title=title,
            after_chunk=CollapseWatch(diagnostics),
        )
    if rank() == 0:
        _save(learner, chosen, store, cases, run)
        rows = numbers(metrics.rows())
        draw_diagnostics(run.path / DIAGNOSTICS, rows, title=title)
        conclude(title, rows)


class Assembly(NamedTuple):
    """What is trained, and on what."""

    learner: PretextMethod
    reader: SliceReader
    views: ViewMaker
    batches: UnlabelledBatches


def assemble(
    chosen: PretrainSettings, store: Store, cases: Sequence[CaseRecord], size: int
) -> Assembly:
    """Put a pre-training together; the method is around a fresh encoder.

    Args:
        chosen: the settings.
        store: has the cases.
        cases: to train on.
        size: extent of the views in pixels.

    Raises:
        PosconError: there is but one slice, or the method cannot train so.
    """
    network = fit_channels(chosen.network, store.channels, store.path)
    views = ViewMaker(chosen.views, size, store.channels)
    reader = SliceReader(store, cases, canvas_size(size, chosen.views), network.context)
    if len(reader) < 2:
        raise PosconError(f"{store.path}: one slice alone has nothing to be contrasted with")
    method = find_method(chosen.method)
    if n_processes() > 1 and not method.in_processes:
        raise PosconError(f"--method {chosen.method}: trains in one process only, without torchrun")
    torch.manual_seed(stream(chosen.seed, "initialisation"))
    settings = method.Settings(**chosen.loss)
    learner = method(build_encoder(network), chosen.head, settings, len(reader))
    learner.grad_cache_chunk = chosen.grad_cache_chunk
    batches = UnlabelledBatches(
        reader, chosen.batch, chosen.epochs, chosen.seed, CHUNK_STEPS, chosen.sampler
    )
    learner.check(batches.total_steps, views)
    return Assembly(learner, reader, views, batches)


def _save(
    learner: PretextMethod,
    chosen: PretrainSettings,
    store: Store,
    cases: Sequence[CaseRecord],
    run: RunFolder,
) -> None:
    """Write the parts of the network; the encoder last: it says that all are there."""
    about = {
        "poscon_version": __version__,
        "network": chosen.network.model_dump(),
        "method": chosen.method,
        "parts": list(learner.parts),
        **inputs_record(store, cases, chosen.size),
    }
    for part in reversed(learner.parts):
        save_weights(part_file(run.path, part), getattr(learner, part), about)
