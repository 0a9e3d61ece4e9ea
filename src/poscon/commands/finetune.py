"""``poscon finetune``: a few labelled cases in, a segmentation model out."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from poscon.arguments import checked
from poscon.distributed import started_by_torchrun
from poscon.errors import PosconError
from poscon.files import alone
from poscon.finetuning import find_method
from poscon.finetuning.base import FinetuneMethod
from poscon.networks.weights import save_weights
from poscon.progress import console
from poscon.settings import (
    GivenSettings,
    Recipe,
    check_kept,
    stated_values,
    validate,
    validate_stated,
)
from poscon.store.manifest import CaseRecord
from poscon.store.names import Names
from poscon.store.selection import slice_size
from poscon.store.store import Store
from poscon.training.curve import rise_at_end
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.finetune_training import finetune_training, steps_within
from poscon.training.initial_network import check_unseen, initial_network
from poscon.training.loggers import check_logger
from poscon.training.loop import AfterChunk, train
from poscon.training.lost_classes import LostClassWatch
from poscon.training.roles import (
    LEARNS_FROM_ALL,
    Roles,
    Selection,
    choose_roles,
    default_method,
    roles_of_method,
)
from poscon.training.run import (
    MODEL,
    MetricsFile,
    RunFolder,
    check_same_cases,
    inputs_record,
    say_mixtures,
)
from poscon.training.start import seen_before
from poscon.training.validation import mean_dice
from poscon.version import __version__


@checked
def finetune(
    store: Path | str,
    run: Path | str,
    *,
    init: Path | str | None = None,
    labelled: int | None = None,
    labelled_slices: int | Path | str | None = None,
    cases: Names | None = None,
    exclude: Names | None = None,
    unlabelled: Names | None = None,
    validation: Names | None = None,
    method: str | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    recipe: Recipe | None = None,
    settings: GivenSettings = (),
    logger: str | None = None,
    device: str | None = None,
    resume: bool = False,
) -> Path:
    """Train a U-Net on labelled cases, from a pre-trained encoder or from a random start.

    The model is the last state of the training, or of its moving average. Validation cases are only
    looked at, for the curve in ``metrics.csv``; nothing is chosen by them.

    Args:
        store: prepared data set with label maps.
        run: folder to write, see :mod:`poscon.training.run`.
        init: folder of a pre-training run, or a file of weights (see
            :func:`poscon.networks.checkpoints.read_checkpoint`); None starts at random.
        labelled: how many labelled subjects to draw, by the seed; all their cases are used. None:
            all there are.
        labelled_slices: how many labelled slices of these subjects to draw, by the seed (see
            :func:`poscon.store.slices.draw_slices`); or a CSV file that names them, with the
            columns ``case`` and ``slice`` (see :func:`poscon.store.slices.read_slice_table`),
            counted as in the store. The other slices are used without labels, by methods that do
            so. None: all.
        cases: the cases or subjects to use or draw from: a file that names them (see
            :func:`poscon.store.names.read_names`), or a list of names; None: all labelled ones.
        exclude: the subjects to leave out, such as the test subjects: a file or a list.
        unlabelled: the cases to use without their labels, for methods that do so: a file or a
            list; None: the rest of the cases to draw from.
        validation: the cases to set apart for validation: a file or a list.
        method: fine-tuning method; None: that of the recipe, else as
            :func:`poscon.training.roles.default_method` says.
        iterations: training steps; None: that of the recipe, else 2000.
        minutes: how long the training may take, in place of ``iterations``. The number of steps
            that fit is worked out from the speed of the first ones. The run folder has it as
            ``iterations``, so the run can be resumed, and repeated with it.
        seed: decides every random choice, the draw of labelled subjects too; None: that of the
            recipe, else 0.
        device: ``auto``, ``cpu`` or ``cuda``; None: that of the recipe, else ``auto``.
        recipe: name, file or content of a recipe with a ``finetune`` section.
        settings: further settings, see :data:`poscon.settings.GivenSettings`.
        logger: what shows the metrics besides ``metrics.csv``: ``tensorboard``, ``mlflow`` or
            ``wandb`` (see :mod:`poscon.training.loggers`); None: that of the recipe, else
            ``tensorboard``.
        resume: whether to continue a run that is in the folder. It keeps its settings and its
            cases; what is stated of them has to be the same. Where there is no run, one begins.

    Returns:
        The model's file, ``RUN/model.safetensors``.

    Raises:
        PosconError: an unusable store, setting, selection, checkpoint or run folder.
    """
    if started_by_torchrun():
        raise PosconError("poscon finetune: trains in one process only; start it without torchrun")
    folder, opened = RunFolder(run), Store(store)
    stated = stated_values(
        "finetune",
        recipe,
        settings,
        method=method,
        iterations=iterations,
        minutes=minutes,
        seed=seed,
        logger=logger,
        device=device,
    )
    own = stated_values("finetune", None, settings, iterations=iterations, minutes=minutes)
    for length, other in (("minutes", "iterations"), ("iterations", "minutes")):
        if length in own and other not in own:
            stated.pop(other, None)  # the recipe's
    selection = Selection(cases, exclude, unlabelled, validation, labelled, labelled_slices)
    if resume and not folder.is_new:
        request = Request.resume(folder, opened, device)
        _check_same_run(folder, request, stated, init, selection)
        model = folder.path / MODEL
        return model if folder.is_finished(model) else _finetune(request, folder)
    folder.check_new()
    free = not {"method", "loss"} & stated.keys()  # a stated loss is that of `supervised`
    chosen = _of_either(stated, recipe) if free else _validated(stated, recipe)
    roles = choose_roles(opened, selection, chosen.seed, pretrained=init is not None)
    if free:
        if chosen.ema_decay > 0:  # the moving average labels the cases without labels
            stated["method"] = default_method(roles, selection)
        chosen = _validated(stated, recipe)
    roles = roles_of_method(opened, roles, selection, chosen.method)
    return _finetune(Request.from_arguments(opened, chosen, init, selection, roles), folder)


def _validated(stated: Mapping[str, Any], recipe: Recipe | None) -> FinetuneSettings:
    return validate_stated(FinetuneSettings, stated, "finetune", recipe)


def _of_either(stated: Mapping[str, Any], recipe: Recipe | None) -> FinetuneSettings:
    """The settings where the default method is still to be chosen, by the cases.

    Raises:
        PosconError: they are those of none of the two methods that it may be.
    """
    try:
        return _validated(stated, recipe)
    except PosconError:
        with suppress(PosconError):
            return _validated({**stated, "method": LEARNS_FROM_ALL}, recipe)
        raise


def _check_same_run(
    folder: RunFolder,
    request: "Request",
    stated: Mapping[str, Any],
    init: Path | str | None,
    selection: Selection,
) -> None:
    """Refuse arguments that are not those of the run that goes on.

    Raises:
        PosconError: a setting, the start or a case differs.
    """
    # the run has the minutes as iterations
    check_kept({k: v for k, v in stated.items() if k != "minutes"}, request.settings, folder.path)
    inputs = folder.read_config()["inputs"]
    began = inputs["init"]
    told = validate(FinetuneSettings, {"minutes": stated.get("minutes")}).minutes
    # a run of an earlier version does not know
    if told is not None and told != inputs.get("minutes", told):
        for_minutes = inputs["minutes"]
        raise PosconError(
            f"--minutes {told:g}: the run of {folder.path} was begun with "
            f"{'a number of steps' if for_minutes is None else f'{for_minutes:g}'}; leave it out "
            "or start a new run"
        )
    if init is not None and str(init) != began:
        raise PosconError(
            f"--init {init}: the run of {folder.path} was begun with "
            f"{'random weights' if began is None else began}; leave it out or start a new run"
        )
    if selection != Selection():
        chosen = request.settings
        roles = choose_roles(request.store, selection, chosen.seed, pretrained=began is not None)
        roles = roles_of_method(request.store, roles, selection, chosen.method)
        check_same_cases(folder.path, request.cases, roles)


@dataclass(frozen=True)
class Request:
    """What is to be fine-tuned, and on what.

    Attributes:
        store: the prepared data set.
        settings: every setting; in a resumed run with ``size`` and ``network``.
        cases: the cases by role.
        init: the pre-training run, or file, whose weights are still to be loaded. None: random
            weights, or those of the run's own checkpoint.
        resumed: whether the run folder has the run already.
    """

    store: Store
    settings: FinetuneSettings
    cases: Roles
    init: Path | None
    resumed: bool = False

    @classmethod
    def from_arguments(
        cls,
        store: Store,
        settings: FinetuneSettings,
        init: Path | str | None,
        selection: Selection,
        roles: Roles,
    ) -> Self:
        """A new training on the cases of these roles; other arguments as of :func:`finetune`.

        Raises:
            PosconError: pre-training on cases kept apart, or a setting without effect.
        """
        if init is None and settings.init_parts != "all":
            raise PosconError("setting init_parts: has no effect without --init")
        watched = roles.get("validation", [])
        check_unseen(store, init, selection.exclude, watched, settings.transductive)
        every = [case for role in roles.values() for case in role]
        uses = find_method(settings.method).uses_positions and settings.position != "learned"
        say_mixtures(store, every, positions=uses)
        return cls(store, settings, roles, None if init is None else Path(init))

    @classmethod
    def resume(cls, folder: RunFolder, store: Store, device: str | None) -> Self:
        """The training of a run folder, on the same device or on another one.

        Raises:
            PosconError: the folder has no such run, or the store has changed.
        """
        config = folder.resume("finetune")
        settings = folder.kept_settings(FinetuneSettings, config, device)
        init = config["inputs"]["init"]
        # once there is a checkpoint, the encoder's file is not needed any more
        needed = init is not None and folder.checkpoint is None
        cases = folder.resume_cases("finetune", store)
        return cls(store, settings, cases, Path(init) if needed else None, resumed=True)


def _finetune(request: Request, folder: RunFolder) -> Path:
    """Train what is requested to its end, and write the model; nobody else writes there."""
    check_logger(request.settings.logger, folder.path)
    with alone(folder.path, "finetune"):
        return _finetune_alone(request, folder)


def _finetune_alone(request: Request, folder: RunFolder) -> Path:
    chosen, store, cases, init = request.settings, request.store, request.cases, request.init
    trained = [*cases["labelled"], *cases.get("unlabelled", ())]
    network, loaded = initial_network(chosen, init, store, trained)
    size = slice_size(cases["labelled"], chosen.size, network.encoder.stride)
    chosen = chosen.model_copy(update={"size": size, "network": network.settings})
    watched = cases.get("validation", [])
    if chosen.minutes is not None:
        steps = steps_within(chosen.minutes, chosen, store, cases, network)
        chosen = chosen.model_copy(update={"iterations": steps, "minutes": None})
    training = finetune_training(chosen, store, cases, network)
    if not request.resumed:
        folder.begin(
            "finetune",
            store,
            chosen.model_dump(mode="json"),
            cases,
            earlier=[] if init is None else seen_before(init),
            init=None if init is None else str(init),
            minutes=request.settings.minutes,
            loaded=loaded,
        )
    assert isinstance(training.method, FinetuneMethod)
    train(
        training.method,
        training.views,
        training.batches,
        optimiser=training.optimiser,
        run=folder,
        device=training.device,
        precision=training.precision,
        compiled=chosen.compile,
        logger=chosen.logger,
        title=f"fine-tuning ({chosen.method})",
        encoder=network.encoder,
        encoder_rate=chosen.encoder_rate,
        after_chunk=_after_chunk(training.method, store, watched, chosen),
    )
    _say_rise(folder, training.method)
    path = folder.path / MODEL
    save_weights(
        path,
        training.method.model,
        {
            "poscon_version": __version__,
            "network": network.settings.model_dump(),
            "keep_largest_component": chosen.keep_largest_component,
            "classes": [c.model_dump() for c in store.manifest.classes],
            **inputs_record(store, trained, size),
        },
    )
    return path


def _after_chunk(
    method: FinetuneMethod, store: Store, watched: Sequence[CaseRecord], chosen: FinetuneSettings
) -> AfterChunk:
    """What is looked at after each chunk: lost classes, and the validation cases if there are any.

    Args:
        method: the method that is trained.
        store: the prepared data set.
        watched: the validation cases.
        chosen: the settings.
    """
    lost = None if method.guard is None else LostClassWatch(method.guard, store.class_names)

    def look(row: dict[str, float]) -> dict[str, float]:
        if lost is not None:
            lost(row)
        return mean_dice(method.model, store, watched, chosen) if watched else {}

    return look


def _say_rise(folder: RunFolder, method: FinetuneMethod) -> None:
    """A note on stderr if the run was still getting better when it ended.

    It looks at the Dice of the validation cases. Without such cases it looks at the method's own
    curve, see :attr:`poscon.finetuning.base.FinetuneMethod.rising_log`.
    """
    rows = MetricsFile(folder.metrics_path).rows()
    watched = any(row.get("validation_dice") for row in rows)
    name = "validation_dice" if watched else method.rising_log
    if name is None:
        return
    if rise := rise_at_end([float(row[name]) for row in rows if row.get(name)]):
        console.print(
            f"note: {name} rose by {rise:.3f} over the last third of the training, so more "
            "--iterations (or --minutes) may give a better model",
            soft_wrap=True,
        )
