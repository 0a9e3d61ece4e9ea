"""``poscon bench`` measures how fast this machine pre-trains, and says what would help."""

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from poscon.arguments import checked
from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.progress import console
from poscon.settings import GivenSettings, Recipe, resolve
from poscon.store.selection import slice_size
from poscon.store.store import Store
from poscon.training.inference import choose_device
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.timing import (
    PARTS,
    Bare,
    Overhead,
    Training,
    matrix_rate,
    measure_overhead,
    time_parts,
)
from poscon.volumes.phantom import write_phantom

PHANTOMS = 12
ENOUGH = 0.95
"""If the bare arithmetic has at least this share of the time, only its changes are worthwhile."""
WORTH = 1.1
"""A change is mentioned if it is at least this many times as fast."""


@dataclass(frozen=True)
class Bench:
    """The result of the measurement.

    Attributes:
        machine: the processor or GPU, and how much of it was used.
        settings: settings that the speed depends on.
        size: extent of the views in pixels.
        steps: number of steps of the whole training.
        parts: seconds per step of each part, measured on its own.
        overhead: the training loop and its bare arithmetic.
        operations: operations per second of the bare arithmetic.
        matrix_rate: operations per second of a large matrix product in the same precision.
        changes: by possible change, how many times as fast the bare arithmetic then is.
    """

    machine: str
    settings: PretrainSettings
    size: int
    steps: int
    parts: dict[str, float]
    overhead: Overhead
    operations: float
    matrix_rate: float
    changes: dict[str, float]


@checked
def bench(
    store: Path | str | None = None,
    *,
    method: str | None = None,
    recipe: Recipe | None = None,
    settings: GivenSettings = (),
    device: str | None = None,
    seconds: float = 90.0,
) -> Bench:
    """Measure pre-training on this machine. Nothing is written.

    Args:
        store: prepared data set; None: a few built-in synthetic scans.
        method: pre-training method; None: that of the recipe, else ``pcl``.
        recipe: name, file or content of a recipe with a ``pretrain`` section.
        settings: further settings, see :data:`poscon.settings.GivenSettings`.
        device: ``auto``, ``cpu`` or ``cuda``.
        seconds: how long to measure, in seconds, roughly.

    Raises:
        PosconError: the store or a setting cannot be used, or the method does not train.
    """
    chosen = resolve(PretrainSettings, "pretrain", recipe, settings, method=method, device=device)
    if chosen.compile:
        raise PosconError("setting compile: no effect on bench, which tries it out on a GPU")
    with tempfile.TemporaryDirectory() as folder:
        if store is None:
            store = Path(folder) / "store"
            write_phantom(Path(folder) / "scans", subjects=PHANTOMS)
            prepare(Path(folder) / "scans", store)
        return _measure(chosen, Store(store), seconds)


def _measure(chosen: PretrainSettings, store: Store, seconds: float) -> Bench:
    size = slice_size(store.cases, chosen.size, chosen.network.stride)
    device = choose_device(chosen.device)

    def build() -> Training:
        learner, reader, views, batches = assemble(chosen, store, store.cases, size)
        if not learner.trains:
            raise PosconError(f"--method {chosen.method}: does not train, so it has no speed")
        reader.hold_if_it_fits(device)
        return Training(learner, views, batches, chosen.optimiser, device, chosen.precision)

    training = build()
    console.print(f"measuring, about {seconds:.0f} s on an idle machine")
    bare = Bare(training)
    steps = max(1, round(seconds / 20 / bare.seconds(1)))
    bfloat16 = training.bfloat16
    rate = bare.operations() / (bare.seconds(steps) / steps)
    return Bench(
        machine=_machine(device),
        settings=chosen,
        size=size,
        steps=training.batches.total_steps,
        parts=time_parts(training, seconds / 4),
        overhead=measure_overhead(build, seconds / 2),
        operations=rate,
        matrix_rate=matrix_rate(device, bfloat16=bfloat16),
        changes=_changes(bare, steps, device, bfloat16),
    )


def _changes(bare: Bare, steps: int, device: str, bfloat16: bool) -> dict[str, float]:
    """Try other settings. Say how many times as fast the arithmetic is with each of them."""
    alternatives = {}
    if not bfloat16:
        alternatives["--set precision=bf16"] = bare.seconds(steps) / bare.seconds(
            steps, bfloat16=True
        )
    threads = torch.get_num_threads()
    if device == "cpu" and threads > 1:
        now = bare.seconds(steps)
        torch.set_num_threads(1)
        alternatives["OMP_NUM_THREADS=1"] = now / bare.seconds(steps)
        torch.set_num_threads(threads)
    if device == "cuda":  # last: it cannot be undone. On a CPU it takes a minute and does not help
        now = bare.seconds(steps)
        bare.compile()
        alternatives["--set compile=true"] = now / bare.seconds(steps)
    return alternatives


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()}, {threads} thread(s)"


def bench_tables(result: Bench) -> list[Table | str]:
    """The tables and lines for the terminal."""
    step = sum(result.parts.values())
    batch, overhead = result.overhead.slices, result.overhead
    table = Table("part", "ms a step", "share")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in PARTS:
        table.add_row(part, f"{result.parts[part] * 1e3:.1f}", f"{result.parts[part] / step:.1%}")
    title = (
        f"{result.settings.method}, {batch} slices of {result.size} x {result.size} pixels, "
        f"width {result.settings.network.width}; {result.machine}"
    )
    lines = [
        f"{overhead.slices_per_second:.0f} slices a second in the training loop, "
        f"{overhead.share:.0%} of its time the bare arithmetic of the step",
        f"{result.steps} steps, {result.settings.epochs} epochs of this store, would take "
        f"{_duration(result.steps * batch / overhead.slices_per_second)}",
        f"{result.operations / 1e9:.0f} GFLOP/s, "
        f"{result.operations / result.matrix_rate:.0%} of what a large matrix product does here",
        f"what limits it: {limit(result)}",
        *(f"what would help: {line}" for line in advice(result)),
    ]
    return [title, table, *lines]


def bench_record(result: Bench) -> dict[str, Any]:
    """The content for JSON: what was measured, what limits it and what would help."""
    overhead = result.overhead
    return {
        "machine": result.machine,
        "settings": result.settings.model_dump(mode="json"),
        "size": result.size,
        "steps": result.steps,
        "slices_per_step": overhead.slices,
        "seconds_per_step": result.parts,
        "slices_per_second": overhead.slices_per_second,
        "share_of_bare_arithmetic": overhead.share,
        "operations_per_second": result.operations,
        "matrix_operations_per_second": result.matrix_rate,
        "times_as_fast": result.changes,
        "limit": limit(result),
        "advice": advice(result),
    }


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 100 else f"{seconds:.0f} s"


def limit(result: Bench) -> str:
    """Say what limits the speed of the training loop."""
    if result.overhead.share >= ENOUGH:
        return "the convolutions; the rest is waited for hardly at all"
    around = {part: result.parts[part] for part in ("read", "views")}
    step = sum(result.parts.values())
    lost = (1 - result.overhead.share) * step
    worst = max(around, key=lambda part: around[part])
    if around[worst] < lost / 3:
        return "the training loop around the step: the steps are very short"
    return {"read": "reading slices", "views": "making views"}[worst]


def advice(result: Bench) -> list[str]:
    """Say what to change. Only changes that were measured are listed."""
    lines = [
        f"{change} ({factor:.1f} times as fast)"
        for change, factor in sorted(result.changes.items(), key=lambda item: -item[1])
        if factor >= WORTH
    ]
    where = limit(result)
    if where.startswith("reading"):
        lines.append("a store on a local disk, or more memory, so that it stays in the page cache")
    elif where.startswith("making"):
        lines.append("smaller slices (size)")
    elif where.startswith("the training loop"):
        lines.append("more slices a step (batch)")
    return lines or ["nothing among the settings; a faster machine, smaller slices or width"]
