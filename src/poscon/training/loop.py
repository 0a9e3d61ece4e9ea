"""The one training loop. It has a method, its batches and a run folder, and can always resume.

Lightning Fabric knows the device, the precision and the other processes. The steps between two
checkpoints are a chunk. Batches and views are functions of (seed, step). So a run that was killed
repeats the steps since its last checkpoint exactly. A run that is asked to end writes a checkpoint
first, in the middle of a chunk.
"""

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from poscon.distributed import n_processes, rank, total
from poscon.errors import PosconError
from poscon.files import complete, sweep
from poscon.methods import Method
from poscon.networks.checkpoints import load_pickled, save_pickled
from poscon.networks.parts import Decoder, Encoder
from poscon.progress import console, progress_bar, say_lines
from poscon.step import Step
from poscon.stops import stop_later
from poscon.training.data import Batches
from poscon.training.inference import announced_precision, channels_last
from poscon.training.loggers import Logger, LoggerName, open_logger
from poscon.training.optimisation import EncoderRate, OptimiserSettings, build_optimiser
from poscon.training.run import MetricsFile, RunFolder
from poscon.views import ViewMaker

if TYPE_CHECKING:  # only a training needs Fabric, whose import takes as long as that of torch
    from lightning_fabric import Fabric

AfterChunk = Callable[[dict[str, float]], dict[str, float]]


def train(
    method: Method,
    views: ViewMaker,
    batches: Batches,
    *,
    optimiser: OptimiserSettings,
    run: RunFolder,
    device: str,
    precision: str,
    compiled: bool = False,
    logger: LoggerName = "tensorboard",
    title: str,
    encoder: nn.Module | None = None,
    encoder_rate: EncoderRate | None = None,
    after_chunk: AfterChunk | None = None,
) -> None:
    """Train to the end of ``batches``, from the run's last checkpoint if it has one.

    Args:
        method: the loss and everything that it trains.
        views: maker of the views of slices.
        batches: the batches to train on.
        optimiser: the settings of the optimiser.
        run: folder for checkpoints and metrics.
        device: ``cpu`` or ``cuda``.
        precision: see :func:`poscon.training.inference.choose_precision`.
        compiled: whether torch compiles the networks first.
        logger: see :mod:`poscon.training.loggers`.
        title: title of the progress display.
        encoder: the part of ``method`` to which ``encoder_rate`` applies.
        encoder_rate: how the encoder is held back; None: it is not.
        after_chunk: function that is called after each chunk with its row of metrics.csv. It
            returns further values for the row.

    Raises:
        PosconError: the checkpoint cannot be used, a slice cannot be read, the loss is not finite,
            torch cannot compile here, the logger cannot be used, or the disk is full.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step is done and saved.
    """
    fabric = _fabric(device, announced_precision(precision, device))
    channels_last(method.to(fabric.device))
    if compiled:
        compile_networks(method)
    if n_processes() > 1 and device == "cuda":  # torch has this one for GPUs only
        nn.SyncBatchNorm.convert_sync_batchnorm(method)
    stepper, schedule = build_optimiser(
        method.parameters(),
        optimiser,
        batches.total_steps,
        encoder=[] if encoder is None else encoder.parameters(),
        encoder_rate=encoder_rate,
    )
    state = {"method": method, "optimiser": stepper, "schedule": schedule}
    means = ChunkMeans(fabric.device)
    done = restore(run, state, means)
    trained = fabric.setup_module(method)
    trained.mark_forward_method("step")
    with (
        stop_later() as stop,
        _refusals(run),
        progress_bar() as progress,
        _Log(run, title, done, logger) as log,
    ):
        task = progress.add_task(title, total=batches.total_steps, completed=done, status="")
        for batch, seed, share in batches.from_step(done, pinned=device == "cuda"):
            with fabric.autocast():
                step = trained.step(batch.to(fabric.device), views, seed, share)
            fabric.backward(step.loss)
            if optimiser.clip is not None:
                nn.utils.clip_grad_norm_(method.parameters(), optimiser.clip)
            stepper.step()
            stepper.zero_grad()
            schedule.step()
            method.after_step()
            done += 1
            means.add(step, len(batch.images))
            progress.advance(task)
            if not progress.disable and means.steps % 10 == 1:
                progress.update(task, status=means.status())
            if not batches.ends_chunk(done):
                if stop.asked is not None:
                    save(run, state, done, means)
                    raise stop.asked
                continue
            row = {"step": done, **means.row(), "lr": float(schedule.get_last_lr()[0])}
            if not math.isfinite(row["loss"]):
                raise PosconError(
                    f"{run.path}: the loss is {row['loss']} by step {done}; "
                    "start a new run with a smaller optimiser.lr, or set optimiser.clip"
                )
            if rank() == 0:
                if after_chunk is not None:
                    with torch.compiler.set_stance("force_eager"):  # slices differ in shape
                        row |= after_chunk(row)
                log.write(row)
                save(run, state, done)
            if stop.asked is not None:
                raise stop.asked
            means = ChunkMeans(fabric.device)


def _fabric(device: str, precision: str) -> "Fabric":
    """Make the Fabric: for this process, or for all processes that ``torchrun`` started."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    processes = n_processes()
    on_each = int(os.environ["LOCAL_WORLD_SIZE"]) if processes > 1 else 1
    fabric = Fabric(
        accelerator=device,
        devices=on_each,
        num_nodes=processes // on_each,
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def compile_networks(method: Method) -> None:
    """Let torch compile what a method trains, in place. The names of the weights do not change.

    Encoders and decoders are compiled on their own, because a method may call them separately.
    They are compiled for the one shape that a training has. Earlier compilations of this process
    are dropped: torch keeps them, and stops compiling when it has eight of a module.
    """
    torch.compiler.reset()
    for part in method.modules():
        if isinstance(part, Encoder | Decoder):
            part.compile(dynamic=False)


@contextmanager
def _refusals(run: RunFolder) -> Iterator[None]:
    """Remove the folder of a training that fails before its first checkpoint."""
    try:
        yield
    except PosconError:
        if rank() == 0:
            run.discard_if_nothing_done()
        raise
    except torch._dynamo.exc.BackendCompilerFailed as error:
        run.discard_if_nothing_done()
        reason = str(error).strip().splitlines()[0]
        raise PosconError(
            f"setting compile: torch cannot compile here ({reason}); leave it out"
        ) from error


def save(
    run: RunFolder, state: dict[str, Any], step: int, means: "ChunkMeans | None" = None
) -> None:
    """Write the run's checkpoint: the state of each part after ``step`` steps.

    Args:
        run: the run's folder.
        state: the parts of the training.
        step: number of steps that are done.
        means: of the steps of a chunk that is cut off; None: a chunk has ended.
    """
    parts = {**state, **({} if means is None else {"means": means})}
    with complete(run.checkpoint_path) as file:
        save_pickled({"step": step, **{n: part.state_dict() for n, part in parts.items()}}, file)


def restore(run: RunFolder, state: dict[str, Any], means: "ChunkMeans") -> int:
    """Load the run's checkpoint, if it has one, into the parts of the training and the means.

    Returns:
        The number of steps that are done.

    Raises:
        PosconError: the checkpoint is damaged, or it holds other weights than the method has.
    """
    if rank() == 0:
        sweep(run.checkpoint_folder)
    path = run.checkpoint
    if path is None:
        return 0
    try:
        content = load_pickled(path)
        if content["method"].keys() != state["method"].state_dict().keys():
            raise PosconError(
                f"{path}: holds other weights than this version of poscon trains; "
                "start the run anew, or finish it with the version that wrote it"
            )
        for name, part in state.items():
            part.load_state_dict(content[name])
        if "means" in content:
            means.load_state_dict(content["means"])
        return int(content["step"])
    except PosconError:
        raise
    except Exception as error:  # of many kinds
        raise PosconError(
            f"{path}: damaged, or written by another version of poscon; start the run anew"
        ) from error


class ChunkMeans:
    """Means over the steps of a chunk. No number is read from a GPU before the end.

    Args:
        device: device that holds the numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)  # stages may log different numbers
        self.slices = 0
        self.started = time.perf_counter()

    def add(self, step: Step, slices: int) -> None:
        """Add a step. ``slices`` is its number of slices in this process."""
        values: dict[str, Any] = {"loss": step.loss, **step.logs}
        if step.chance is not None and step.floor is not None:
            values |= {"chance": step.chance, "floor": step.floor}
        for name, value in values.items():
            self.sums[name] += value.detach() if isinstance(value, Tensor) else value
            self.counts[name] += 1
        self.slices += slices * n_processes()

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs: all but the number of slices, which it times itself."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, known: dict[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave."""
        for name, value in known["sums"].items():
            self.sums[name] = value.to(self.device) if isinstance(value, Tensor) else value
        self.counts.update(known["counts"])

    @property
    def steps(self) -> int:
        return self.counts["loss"]

    def mean(self, name: str) -> float:
        """The mean of one number in this process."""
        return float(self.sums[name]) / self.counts[name]

    def status(self) -> str:
        """The text beside the progress bar."""
        chance = f" (chance {self.mean('chance'):.2f})" if "chance" in self.sums else ""
        return f"loss {self.mean('loss'):.3f}{chance}"

    def row(self) -> dict[str, float]:
        """The means over all processes, and the slices per second."""
        means = torch.tensor([self.mean(name) for name in self.sums], device=self.device)
        row = dict(zip(self.sums, (total(means) / n_processes()).tolist(), strict=True))
        seconds = time.perf_counter() - self.started  # the means have waited for a GPU
        if self.counts["chance"] < self.steps:  # the loss covers two stages
            row = {name: value for name, value in row.items() if name not in ("chance", "floor")}
        return {**row, "slices_per_second": self.slices / seconds}


class _Log:
    """Writes the rows of a training to ``metrics.csv`` and to a logger.

    It also writes them to stderr if that is no terminal. A logger that fails once it has begun is
    left alone: the training goes on, and ``metrics.csv`` has everything.
    """

    def __init__(self, run: RunFolder, title: str, done: int, logger: LoggerName) -> None:
        self.title = title
        self.metrics = MetricsFile(run.metrics_path)
        self.logger: Logger | None = None
        if rank() == 0:
            self.logger = open_logger(logger, run)
            self.metrics.forget_after(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._try(lambda logger: logger.close(finished=error[0] is None))

    def _try(self, act: Callable[[Logger], None]) -> None:
        if self.logger is None:
            return
        try:
            act(self.logger)
        except Exception as error:  # that of a server which is away may be of any class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say_lines([f"note: the logger stops here ({reason}); metrics.csv goes on"])
            self.logger = None

    def write(self, row: dict[str, float]) -> None:
        self.metrics.append(row)
        numbers = {name: value for name, value in row.items() if name != "step"}
        self._try(lambda logger: logger.write(numbers, int(row["step"])))
        if not console.is_terminal:
            values = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            text = f"step {row['step']:.0f}  {values}"
            console.print(f"{self.title}: {text}", soft_wrap=True)
