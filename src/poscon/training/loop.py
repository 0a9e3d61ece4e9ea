"""The one training loop: a method, its batches, a run folder; resumable at any moment.

Lightning runs it. What Lightning calls an epoch is here a chunk: the steps between two
checkpoints. Batches and views are functions of (seed, step), so a run that was killed repeats the
steps since its last checkpoint exactly.
"""

import csv
import io
import logging
import math
import os
import pickle
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader

from poscon.distributed import n_processes, rank, total
from poscon.errors import PosconError
from poscon.files import complete, write_text
from poscon.methods import Method
from poscon.networks.parts import Decoder, Encoder
from poscon.progress import console, progress_bar
from poscon.step import SliceBatch
from poscon.training.data import Batches
from poscon.training.inference import channels_last, choose_precision
from poscon.training.optimisation import EncoderRate, OptimiserSettings, build_optimiser
from poscon.training.run import CHECKPOINT, RunFolder
from poscon.views import ViewMaker

AfterChunk = Callable[[dict[str, float]], dict[str, float]]

_UNREADABLE = (RuntimeError, OSError, ValueError, EOFError, LookupError, TypeError)
_NO_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")
_NOISE = (
    ".*does not have many workers.*",
    ".*`IterableDataset` has `__len__` defined.*",
    ".*The dirpath has changed.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",
    ".*torch.distributed.* is deprecated.*",
)


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
    title: str,
    encoder: nn.Module | None = None,
    encoder_rate: EncoderRate | None = None,
    after_chunk: AfterChunk | None = None,
) -> None:
    """Train to the end of ``batches``, from the run's last checkpoint if it has one.

    Args:
        method: the loss and everything that it trains.
        views: makes the views of slices.
        batches: what to train on.
        optimiser: how.
        run: where checkpoints and metrics go.
        device: ``cpu`` or ``cuda``.
        precision: ``auto`` (bfloat16 autocast on a GPU), ``32`` or ``bf16``.
        compiled: whether torch compiles the networks first.
        title: shown in the progress display.
        encoder: the part of ``method`` that ``encoder_rate`` is for.
        encoder_rate: how fast it learns; None: as fast as all.
        after_chunk: called after each chunk with its row of metrics.csv; returns further values.
    """
    bfloat16 = choose_precision(precision, device) == "bf16"
    if bfloat16 and device == "cpu" and torch.backends.cpu.get_cpu_capability() in _NO_BFLOAT16:
        console.print(
            "note: precision bf16: this CPU does not multiply in bfloat16, so that a step takes "
            "many times as long; leave it out (poscon bench measures it)",
            soft_wrap=True,
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", pattern)
    chunks = _Chunks(run, batches, title, after_chunk)
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        **_placement(device),
        precision="bf16-mixed" if bfloat16 else "32-true",
        max_epochs=batches.chunks,
        gradient_clip_val=optimiser.clip,
        logger=TensorBoardLogger(run.path, name="", version="tensorboard"),
        callbacks=[
            chunks,
            ModelCheckpoint(
                run.checkpoint_folder,
                filename=CHECKPOINT.removesuffix(".ckpt"),
                enable_version_counter=False,
                save_on_train_epoch_end=True,
            ),
        ],
        plugins=[_CompleteCheckpoints()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    batches.steps_done = lambda: trainer.global_step
    batches.pinned = device == "cuda"
    channels_last(method)
    if compiled:
        compile_networks(method)
    held_back = [] if encoder is None else list(encoder.parameters())
    module = _Module(
        method,
        views,
        lambda: build_optimiser(
            method.parameters(),
            optimiser,
            batches.total_steps,
            encoder=held_back,
            encoder_rate=encoder_rate,
        ),
    )
    if rank() == 0:
        for leftover in run.checkpoint_folder.glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    checkpoint = _readable_checkpoint(run, module)
    try:
        trainer.fit(
            module,
            DataLoader(batches, batch_size=None),
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
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
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error


def compile_networks(method: Method) -> None:
    """Let torch compile what a method trains, in place: names of weights stay as they are.

    Encoders and decoders by themselves, as a method may go through a network half by half; for the
    one shape that a training has. What was compiled in this process before is forgotten: torch
    keeps it, and compiles no more when it has eight of a module.
    """
    torch.compiler.reset()
    for part in method.modules():
        if isinstance(part, Encoder | Decoder):
            part.compile(dynamic=False)


def _placement(device: str) -> dict[str, Any]:
    """Where Lightning runs: here, or in the processes that there are."""
    if n_processes() == 1:
        return {"devices": 1}
    on_each = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": on_each,
        "num_nodes": n_processes() // on_each,
        "strategy": "ddp",
        "sync_batchnorm": device == "cuda",  # torch has it for GPUs only
    }


def _readable_checkpoint(run: RunFolder, module: nn.Module) -> Path | None:
    """The run's checkpoint, if it has one, found to be whole and of this training.

    Raises:
        PosconError: it is damaged, or holds other things than the module does.
    """
    if run.checkpoint is None:
        return None
    try:
        content = torch.load(run.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        names = dict(content["state_dict"]).keys()
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        raise PosconError(f"{run.checkpoint}: damaged; start the run anew") from error
    if names != module.state_dict().keys():
        raise PosconError(
            f"{run.checkpoint}: written by another version of poscon, which called its parts "
            "otherwise; start the run anew, or end it with that version"
        )
    return run.checkpoint


class _CompleteCheckpoints(TorchCheckpointIO):
    """Puts a checkpoint in place when it is complete, on whatever file system it lies.

    Lightning's own moves it there from the folder for temporary files, which is no more than a copy
    over the last one where that is on another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with complete(Path(path)) as part:
            part.write_bytes(content.getbuffer())


class _Module(L.LightningModule):
    def __init__(
        self,
        method: Method,
        views: ViewMaker,
        optimiser: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__()
        self.method = method
        self.views = views
        self.optimiser = optimiser

    def training_step(self, batch: tuple[SliceBatch, int, float], _: int) -> dict[str, Any]:
        slices, seed, progress = batch
        for part in (slices, slices.unlabelled):
            if part is not None:
                part.images = part.images.float()  # stored in half precision
        step = self.method.step(slices, self.views, seed, progress)
        logs: dict[str, Any] = dict(step.logs)
        if step.chance is not None and step.floor is not None:
            logs |= {"chance": step.chance, "floor": step.floor}
        return {"loss": step.loss, "logs": logs}

    def configure_optimizers(self) -> Any:
        return self.optimiser()

    def on_train_batch_end(self, *_: Any) -> None:
        self.method.after_step()


class _Chunks(Callback):
    """Shows progress, and writes a row of metrics.csv a chunk."""

    def __init__(
        self,
        run: RunFolder,
        batches: Batches,
        title: str,
        after_chunk: AfterChunk | None,
    ) -> None:
        self.run = run
        self.batches = batches
        self.title = title
        self.after_chunk = after_chunk
        self.metrics = MetricsFile(run.metrics_path)

    def on_train_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        if rank() == 0:
            self.metrics.forget_after(trainer.global_step)
        self.bar = progress_bar()
        self.progress = self.bar.__enter__()
        self.task = self.progress.add_task(
            self.title, total=self.batches.total_steps, completed=trainer.global_step, status=""
        )

    def on_train_epoch_start(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)  # a stage of a method may log its own
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, _: L.LightningModule, outputs: Any, batch: Any, __: int
    ) -> None:
        for name, value in {"loss": outputs["loss"], **outputs["logs"]}.items():
            self.sums[name] += value.detach() if isinstance(value, Tensor) else value
            self.counts[name] += 1
        self.slices = len(batch[0].images) * n_processes()
        if not self.progress.disable and self.counts["loss"] % 10 == 1:
            status = f"loss {self._mean('loss'):.3f}"
            if "chance" in outputs["logs"]:
                status += f" (chance {self._mean('chance'):.2f})"
            self.progress.update(self.task, status=status)
        self.progress.advance(self.task)

    def _mean(self, name: str) -> float:
        return float(self.sums[name]) / self.counts[name]

    def _means(self, device: torch.device) -> dict[str, float]:
        """Of this chunk, over all processes."""
        means = torch.tensor([self._mean(name) for name in self.sums], device=device)
        return dict(zip(self.sums, (total(means) / n_processes()).tolist(), strict=True))

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        row: dict[str, float] = {"step": trainer.global_step, **self._means(module.device)}
        seconds = time.perf_counter() - self.started  # the means have waited for a GPU
        if self.counts["chance"] < self.counts["loss"]:  # two stages: the loss is of both
            row = {name: value for name, value in row.items() if name not in ("chance", "floor")}
        if not math.isfinite(row["loss"]):  # before the checkpoint of this chunk is written
            raise PosconError(
                f"{self.run.path}: the loss is {row['loss']} by step {trainer.global_step}; "
                "start a new run with a smaller optimiser.lr, or set optimiser.clip"
            )
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["slices_per_second"] = self.counts["loss"] * self.slices / seconds
        if rank() > 0:
            return
        if self.after_chunk is not None:
            with torch.compiler.set_stance("force_eager"):  # slices of any shape, once each
                row |= self.after_chunk(row)
        self.metrics.append(row)
        assert trainer.logger is not None
        trainer.logger.log_metrics(
            {k: v for k, v in row.items() if k != "step"}, step=trainer.global_step
        )
        if not console.is_terminal:
            text = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
            console.print(f"{self.title}: {text}", soft_wrap=True)

    def on_train_end(self, *_: Any) -> None:
        self.bar.__exit__(None, None, None)

    def on_exception(self, *_: Any) -> None:
        if hasattr(self, "bar"):
            self.bar.__exit__(None, None, None)


class MetricsFile:
    """``metrics.csv``: a row a chunk; a resumed run continues it where its checkpoint is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps that will be done again."""
        rows = self.rows()
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            self._write(kept)

    def append(self, row: dict[str, Any]) -> None:
        self._write([*self.rows(), row])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
