"""``poscon pretrain`` trains an encoder on unlabelled slices."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from poscon.arguments import checked
from poscon.distributed import joined, rank, wait_for_all
from poscon.files import alone
from poscon.networks.settings import fit_channels
from poscon.networks.weights import save_weights
from poscon.positions import POSITIONS
from poscon.pretext.base import PretextMethod
from poscon.seeds import stream
from poscon.settings import GivenSettings, Recipe, check_kept, stated_values, validate_stated
from poscon.store.manifest import CaseRecord
from poscon.store.names import Names
from poscon.store.selection import choose_cases, slice_size
from poscon.store.store import Store
from poscon.training.collapse import CollapseWatch, conclude
from poscon.training.diagnostics import Diagnostics, numbers
from poscon.training.inference import choose_device
from poscon.training.loggers import check_logger
from poscon.training.loop import train
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.run import (
    MetricsFile,
    RunFolder,
    check_same_cases,
    inputs_record,
    part_file,
    say_mixtures,
)
from poscon.version import __version__

DIAGNOSTICS = "diagnostics.png"


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
    logger: str | None = None,
    device: str | None = None,
    resume: bool = False,
) -> Path:
    """Pre-train an encoder on the slices of a store. Labels are not read.

    Args:
        store: prepared data set.
        run: folder to write, see :mod:`poscon.training.run`.
        method: pre-training method; None: that of the recipe, else ``pcl``.
        cases: the cases or subjects to use: a file that names them (see
            :func:`poscon.store.names.read_names`), or a list of names; None: all.
        exclude: the subjects to leave out, such as the test subjects: a file or a list.
        epochs: how often every slice is seen; None: as the recipe says, else 10.
        seed: seed of every random choice; None: that of the recipe, else 0.
        device: ``auto``, ``cpu`` or ``cuda``; None: that of the recipe, else ``auto``.
        recipe: name, file or content of a recipe with a ``pretrain`` section.
        settings: further settings, see :data:`poscon.settings.GivenSettings`.
        logger: what shows the metrics besides ``metrics.csv``: ``tensorboard``, ``mlflow`` or
            ``wandb`` (see :mod:`poscon.training.loggers`); None: that of the recipe, else
            ``tensorboard``.
        resume: whether to continue a run that is in the folder. It keeps its settings and its
            cases; what is stated of them has to be the same. Where there is no run, one begins.

    Returns:
        The encoder's file, ``RUN/encoder.safetensors``. A method that pre-trains the decoder too
        writes ``RUN/decoder.safetensors`` beside it. ``RUN/diagnostics.png`` shows how the
        training went.

    Raises:
        PosconError: the store, a setting, the selection of cases or the run folder cannot be used.
    """
    folder = RunFolder(run)
    opened = Store(store)
    stated = stated_values(
        "pretrain",
        recipe,
        settings,
        method=method,
        epochs=epochs,
        seed=seed,
        logger=logger,
        device=device,
    )
    if resume and not folder.is_new:
        request = Request.resume(folder, opened, device)
        check_kept(stated, request.settings, folder.path)
        if cases is not None or exclude is not None:
            selected = {"pretrain": choose_cases(opened, cases, exclude)}
            check_same_cases(folder.path, {"pretrain": request.cases}, selected)
        encoder = part_file(folder.path, "encoder")
        if folder.is_finished(encoder):
            return encoder
    else:
        folder.check_new()
        chosen = validate_stated(PretrainSettings, stated, "pretrain", recipe)
        request = Request.from_arguments(opened, chosen, cases, exclude)
    check_logger(request.settings.logger, folder.path)
    hardware = choose_device(request.settings.device)
    with joined(hardware), _alone(folder):
        _pretrain(request, folder, hardware)
    return part_file(folder.path, "encoder")


@dataclass(frozen=True)
class Request:
    """A pre-training to do: its settings and its data.

    Attributes:
        store: the prepared data set.
        settings: every setting.
        cases: the cases to train on.
        size: extent of the views in pixels.
        resumed: whether the run folder has the run already.
    """

    store: Store
    settings: PretrainSettings
    cases: list[CaseRecord]
    size: int
    resumed: bool = False

    @classmethod
    def from_arguments(
        cls,
        store: Store,
        settings: PretrainSettings,
        cases: Names | None,
        exclude: Names | None,
    ) -> Self:
        """Make the request of a new training. The arguments are those of :func:`pretrain`.

        Raises:
            PosconError: the selection of cases cannot be used.
        """
        used = choose_cases(store, cases, exclude)
        size = slice_size(used, settings.size, settings.network.stride)
        network = fit_channels(settings.network, store.channels, store.path)
        settings = settings.model_copy(update={"size": size, "network": network})
        return cls(store, settings, used, size)

    @classmethod
    def resume(cls, folder: RunFolder, store: Store, device: str | None) -> Self:
        """Make the request of a run folder's training, on the same device or on another one.

        Raises:
            PosconError: the folder has no such run, or the store has changed.
        """
        config = folder.resume("pretrain")
        settings = folder.kept_settings(PretrainSettings, config, device)
        cases = folder.resume_cases("pretrain", store)["pretrain"]
        size = slice_size(cases, settings.size, settings.network.stride)
        return cls(store, settings, cases, size, resumed=True)


def _alone(folder: RunFolder) -> AbstractContextManager[None]:
    """Hold the folder. The first of the processes does so for all of them."""
    return alone(folder.path, "pretrain") if rank() == 0 else nullcontext()


def _pretrain(request: Request, run: RunFolder, device: str) -> None:
    """Pre-train. Every process does this, and the first one writes."""
    chosen, store = request.settings, request.store
    learner, reader, views, batches = assemble(chosen, store, request.cases, request.size)
    cases = reader.cases
    learner.to(device)
    diagnostics = Diagnostics(learner.encoder, reader, views, stream(chosen.seed, "diagnostics"))
    if learner.trains:
        reader.hold_if_it_fits(device)
    metrics = MetricsFile(run.metrics_path)
    # before the folder exists, so that a damaged store leaves none behind
    before = None if metrics.rows() else {"step": 0, **diagnostics()}
    wait_for_all()
    if rank() == 0:
        if not request.resumed:
            say_mixtures(store, cases, positions=chosen.position != "learned")
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
            logger=chosen.logger,
            title=title,
            after_chunk=CollapseWatch(diagnostics),
        )
    if rank() == 0:
        from poscon.pictures.diagnostics import draw_diagnostics  # a second, with Matplotlib

        _save(learner, chosen, store, cases, run)
        rows = numbers(metrics.rows())
        in_unit = POSITIONS[chosen.position].in_unit
        draw_diagnostics(run.path / DIAGNOSTICS, rows, title=title, in_unit=in_unit)
        conclude(title, rows, in_unit)


def _save(
    learner: PretextMethod,
    chosen: PretrainSettings,
    store: Store,
    cases: Sequence[CaseRecord],
    run: RunFolder,
) -> None:
    """Write the parts of the network. The encoder comes last and marks them as complete."""
    about = {
        "poscon_version": __version__,
        "network": chosen.network.model_dump(),
        "method": chosen.method,
        "parts": list(learner.parts),
        **inputs_record(store, cases, chosen.size),
    }
    for part in reversed(learner.parts):
        save_weights(part_file(run.path, part), getattr(learner, part), about)
