"""Measure where the time of a training goes, with its own method, views and batches."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from poscon.methods import Method
from poscon.progress import silent
from poscon.step import SliceBatch
from poscon.training.data import Batches
from poscon.training.inference import channels_last, choose_precision
from poscon.training.loop import compile_networks, train
from poscon.training.optimisation import OptimiserSettings, build_optimiser
from poscon.training.run import MetricsFile, RunFolder
from poscon.views import View, ViewMaker

PARTS = ("read", "views", "forward", "loss", "backward", "optimiser")
"""The parts of a step. ``loss`` is the method's step without ``views`` and ``forward``."""
WARM_UP = 2
"""Steps that are done before the timed ones."""
TURNS = 7
"""How often the training loop and its bare arithmetic are timed, alternately."""


@dataclass
class Training:
    """A training that can be run.

    Attributes:
        method, views, batches, optimiser, device, precision: the arguments of
            :func:`poscon.training.loop.train` with these names.
    """

    method: Method
    views: ViewMaker
    batches: Batches
    optimiser: OptimiserSettings
    device: str
    precision: str

    @property
    def bfloat16(self) -> bool:
        return choose_precision(self.precision, self.device) == "bf16"


class Clock:
    """Measures seconds by name. On a GPU it waits until the work is done.

    Attributes:
        spent: seconds of each measurement, by name.
        running: names that are being measured now.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.spent: dict[str, list[float]] = {}
        self.running: list[str] = []

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        started = self.now()
        self.running.append(name)
        yield
        self.running.pop()
        self.add(name, self.now() - started)

    def add(self, name: str, seconds: float) -> None:
        self.spent.setdefault(name, []).append(seconds)


class _TimedViews(ViewMaker):
    """Makes views and measures their time."""

    def __init__(self, views: ViewMaker, clock: Clock) -> None:
        super().__init__(views.settings, views.size, views.channels)
        self.clock = clock

    def draw(self, n: int, seed: int, *, view: int = 0) -> View:
        with self.clock.measure("views"):
            return super().draw(n, seed, view=view)

    def apply(self, images: Tensor, view: View) -> Tensor:
        with self.clock.measure("views"):
            return super().apply(images, view)

    def apply_to_labels(self, labels: Tensor, view: View) -> Tensor:
        with self.clock.measure("views"):
            return super().apply_to_labels(labels, view)


class _ResidentViews(ViewMaker):
    """Always returns the same pictures. It shows what a training costs without any views."""

    def __init__(self, views: ViewMaker, device: str) -> None:
        super().__init__(views.settings, views.size, views.channels)
        self.device = device
        self.drawn: dict[int, View] = {}
        self.images: dict[int, Tensor] = {}
        self.labels: dict[int, Tensor] = {}

    def draw(self, n: int, seed: int, *, view: int = 0) -> View:
        if n not in self.drawn:
            self.drawn[n] = super().draw(n, seed, view=view)
        return self.drawn[n]

    def apply(self, images: Tensor, view: View) -> Tensor:
        n = len(images)
        if n not in self.images:
            shape = (n, images.shape[1], self.size, self.size)
            self.images[n] = torch.randn(shape, device=self.device)
        return self.images[n]

    def apply_to_labels(self, labels: Tensor, view: View) -> Tensor:
        n = len(labels)
        if n not in self.labels:
            self.labels[n] = super().apply_to_labels(labels, view)
        return self.labels[n]


class Stepper:
    """Does steps of a training by hand, outside the training loop.

    Args:
        training: training whose method is trained further, in place.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        channels_last(training.method.to(training.device))
        self.optimiser, _ = build_optimiser(
            training.method.parameters(), training.optimiser, training.batches.total_steps
        )

    def step(
        self, batch: SliceBatch, views: ViewMaker, clock: Clock, *, bfloat16: bool | None = None
    ) -> None:
        """Do one step as the training loop does it."""
        training = self.training
        bfloat16 = training.bfloat16 if bfloat16 is None else bfloat16
        with (
            clock.measure("step"),
            torch.autocast(training.device, torch.bfloat16, enabled=bfloat16),
        ):
            loss = training.method.step(batch, views, 0, 0.5).loss
        with clock.measure("backward"):
            loss.backward()
        with clock.measure("optimiser"):
            if training.optimiser.clip is not None:
                nn.utils.clip_grad_norm_(training.method.parameters(), training.optimiser.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
        training.method.after_step()


def time_parts(training: Training, seconds: float) -> dict[str, float]:
    """Measure the median seconds per step of each of :data:`PARTS`.

    Args:
        training: training, which is not run as a whole. Its method is trained further, in place.
        seconds: how long to measure, in seconds.
    """
    stepper, clock = Stepper(training), Clock(training.device)
    views = _TimedViews(training.views, clock)
    rounds: dict[str, list[float]] = {part: [] for part in PARTS}
    forward = ForwardTimer(training.method, clock)
    started, number = time.perf_counter(), 0
    while number <= WARM_UP or time.perf_counter() - started < seconds:
        clock.spent.clear()
        with clock.measure("read"):
            batch = training.batches.batch(number % training.batches.total_steps)
            batch = batch.to(training.device)
        stepper.step(batch, views, clock)
        if number >= WARM_UP:
            total = {name: sum(values) for name, values in clock.spent.items()}
            total["loss"] = total["step"] - total.get("views", 0) - total.get("forward", 0)
            for part in PARTS:
                rounds[part].append(total.get(part, 0.0))
        number += 1
    forward.remove()
    return {part: statistics.median(values) for part, values in rounds.items()}


class ForwardTimer:
    """Measures the outermost forward passes of a method's networks, as ``forward``.

    Forward passes that are repeated in the backward pass (gradient caching) belong to the latter.
    """

    def __init__(self, method: Method, clock: Clock) -> None:
        self.clock = clock
        self.depth = 0
        self.hooks = [
            hook
            for part in method.children()
            for module in part.modules()
            for hook in (
                module.register_forward_pre_hook(self._before),
                module.register_forward_hook(self._after),
            )
        ]

    def _before(self, *_: Any) -> None:
        self.depth += 1
        if self.depth == 1:
            self.began = self.clock.now()

    def _after(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0 and "step" in self.clock.running:
            self.clock.add("forward", self.clock.now() - self.began)

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


class Bare:
    """Does the same steps on one batch of random pictures in memory: nothing but the arithmetic.

    Args:
        training: training whose method is trained further, in place.
    """

    def __init__(self, training: Training) -> None:
        self.stepper = Stepper(training)
        self.batch = training.batches.batch(0).to(training.device)
        self.views = _ResidentViews(training.views, training.device)
        self.device = training.device

    def seconds(self, steps: int, *, bfloat16: bool | None = None) -> float:
        """The seconds that ``steps`` steps take."""
        clock = Clock(self.device)
        started = clock.now()
        for _ in range(steps):
            self.stepper.step(self.batch, self.views, Clock("cpu"), bfloat16=bfloat16)
        return clock.now() - started

    def compile(self) -> None:
        """Let torch compile the networks as the training loop does, and warm up."""
        compile_networks(self.stepper.training.method)
        self.seconds(WARM_UP)

    def operations(self) -> int:
        """Floating-point operations per step. A multiply-add counts as two."""
        with FlopCounterMode(display=False) as counter:
            self.seconds(1)
        return counter.get_total_flops()


@dataclass
class Overhead:
    """The training loop and its bare arithmetic, timed alternately.

    Attributes:
        slices: number of slices per step.
        full: seconds per step of the training loop, for each time.
        bare: seconds per step of the same method on one random batch in memory, for each time.
    """

    slices: int
    full: list[float]
    bare: list[float]

    @property
    def share(self) -> float:
        """Share of the training loop's time that is arithmetic, 0 to 1, median over the times."""
        return statistics.median(b / f for b, f in zip(self.bare, self.full, strict=True))

    @property
    def slices_per_second(self) -> float:
        """Slices per second of the training loop."""
        return self.slices / statistics.median(self.full)


def measure_overhead(build: Callable[[], Training], seconds: float) -> Overhead:
    """Time the training loop without its start against :class:`Bare`, alternately.

    Args:
        build: function that makes the training anew for each turn of the loop.
        seconds: how long to measure, in seconds, roughly.
    """
    training = build()
    bare = Bare(training)
    slices = len(bare.batch.images)
    bare.seconds(WARM_UP)
    once = bare.seconds(WARM_UP) / WARM_UP
    steps = max(2, round(seconds / TURNS / 3 / once))  # one part is bare, two are the loop
    result = Overhead(slices, [], [])
    for _ in range(TURNS):
        result.bare.append(bare.seconds(steps) / steps)
        result.full.append(time_loop(build(), steps))
    return result


def time_loop(training: Training, steps: int, *, compiled: bool = False) -> float:
    """Seconds per step of the training loop without its start, from its own metrics.

    Args:
        training: training, run for twice as many steps as are timed.
        steps: number of steps that are timed.
        compiled: whether torch compiles the networks first.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        run.checkpoint_folder.mkdir(parents=True)
        with silent():
            train(
                training.method,
                training.views,
                training.batches.of_length(2 * steps, steps),
                optimiser=training.optimiser,
                run=run,
                device=training.device,
                precision=training.precision,
                compiled=compiled,
                title="",
            )
        row = MetricsFile(run.metrics_path).rows()[-1]
        slices = len(training.batches.batch(0).images)
        return slices / float(row["slices_per_second"])


def matrix_rate(device: str, *, bfloat16: bool, seconds: float = 2.0) -> float:
    """Operations per second of a large matrix product, the most that convolutions can reach."""
    n = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    clock, best = Clock(device), 0.0
    started = clock.now()
    while best == 0.0 or clock.now() - started < seconds:
        began = clock.now()
        a @ b
        best = max(best, 2 * n**3 / (clock.now() - began))
    return best
