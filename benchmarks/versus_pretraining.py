"""Pre-training against the pipelines that people run today, side by side.

    pip install -e '.[benchmarks]'
    python benchmarks/versus_pretraining.py [--sizes 128 256 352 512] [--threads 2] [--variants]
                                            [--workers 8 16] [--device cuda] [--against published]

The same network, slices, slices a step and cores; what else is the same, and what differs, is in
docs/explanation/speed.md. For each size: views a second on one core (reading included, no
training), and slices a second end to end. All pipelines in turn, medians over the rounds. With
--variants also poscon's own step with one thing changed at a time.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from versus import published, with_monai, with_torchio
from versus.loading import ENDLESS, Batches, LoadedBatches, ReadyViews, StoreBatches
from versus.measuring import (
    cores,
    interleaved,
    not_negative,
    positive,
    print_table,
    ratio,
    run,
    usable_cores,
    versions,
)
from versus.slices import noise_store
from versus.training import Training, TwoPasses, contrast

from poscon.networks.settings import NetworkSettings
from poscon.pretext.pcl import PositionalContrast
from poscon.store.store import Store
from poscon.training.data import SliceReader, UnlabelledBatches
from poscon.training.inference import channels_last, choose_device, choose_precision
from poscon.training.optimisation import OptimiserSettings
from poscon.views import ViewMaker, ViewSettings, canvas_size

OURS = "poscon"
OTHERS = ("published", "MONAI", "TorchIO")
PUBLISHED_OPTIMISER = OptimiserSettings(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-5)


@dataclass
class Pipeline:
    """One way to pre-train.

    Attributes:
        training: what is done with a batch.
        batches: makes an endless source of them, given a number of worker processes.
        workers: the numbers to try.
        keeps_memory: whether its process keeps the memory that it frees, as poscon's does.
    """

    training: Training
    batches: Callable[[int], Batches]
    workers: Sequence[int] = (0,)
    keeps_memory: bool = True


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=positive, nargs="+", default=[128, 256, 352, 512])
    parser.add_argument("--batch", type=positive, default=8, help="slices a step")
    parser.add_argument("--width", type=positive, default=16, help="of the network")
    parser.add_argument("--against", nargs="+", default=OTHERS, choices=OTHERS)
    parser.add_argument("--volumes", type=positive, default=8)
    parser.add_argument("--depth", type=positive, default=16, help="slices a volume")
    parser.add_argument("--threads", type=positive, default=usable_cores())
    parser.add_argument(
        "--workers",
        type=not_negative,
        nargs="+",
        help="processes that make views for the others (default: 0, half the cores, all)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="a measurement, a step at least")
    parser.add_argument("--variants", action="store_true")
    arguments = parser.parse_args(argv)
    if any(size % NetworkSettings().stride for size in arguments.sizes):
        parser.error(
            f"--sizes: must be multiples of {NetworkSettings().stride}, the U-Net's stride"
        )
    if not 2 <= arguments.batch <= arguments.volumes * arguments.depth:
        parser.error("--batch: must be at least 2, and no more slices than there are")
    arguments.device = choose_device(arguments.device)
    print(versions("torch", "batchgenerators", "monai", "torchio"))
    print(
        f"{arguments.device}, {arguments.threads} core(s) and thread(s); width {arguments.width}, "
        f"{arguments.batch} slices a step, volumes of {arguments.depth} slices; "
        f"{arguments.rounds} rounds\n"
    )
    ratios: dict[str, list[str]] = {}
    with cores(arguments.threads), tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            store = noise_store(Path(folder), size, arguments.volumes, arguments.depth)
            views = ViewMaker(ViewSettings(), size)
            reader = SliceReader(store, store.cases, canvas_size(size, views.settings))
            print(f"## {size} x {size}\n")
            found = compare(reader, views, arguments)
            for name, (of_views, of_slices) in found.items():
                ratios.setdefault(name, []).append(f"{of_views:.1f}, {of_slices:.2f}")
            if arguments.variants:
                vary(reader, views, arguments)
    print("poscon / other: of views a second on one core, of slices a second end to end\n")
    print_table(["pipeline", *map(str, arguments.sizes)], [[n, *r] for n, r in ratios.items()])


def build_pipeline(
    name: str, reader: SliceReader, views: ViewMaker, arguments: argparse.Namespace
) -> Pipeline:
    """The published one, or poscon's with views by itself, by MONAI or by TorchIO."""
    if name == OURS:
        return Pipeline(our_training(views, arguments), our_batches(reader, arguments))
    device, threads = arguments.device, arguments.threads
    workers = sorted(set(arguments.workers or (0, (threads + 1) // 2, threads)))

    library: Any = {"published": published, "MONAI": with_monai, "TorchIO": with_torchio}[name]
    ready = ReadyViews(views.size)
    if library is published:
        training = Training(
            contrast(arguments.width, published.PublishedContrast),
            ready,
            device=device,
            bf16=False,
            optimiser=PUBLISHED_OPTIMISER,
        )
    else:
        training = our_training(ready, arguments)
    dataset = library.SliceViews(reader, views.size, views.settings)
    return Pipeline(
        training,
        lambda n: LoadedBatches(
            dataset, arguments.batch, n, init_worker=library.init_worker, pin=device == "cuda"
        ),
        workers,
        keeps_memory=library is not published,
    )


def our_training(
    views: ViewMaker,
    arguments: argparse.Namespace,
    method: type[PositionalContrast] = PositionalContrast,
    **changes: Any,
) -> Training:
    """As poscon trains by default, or that with changes."""
    device, learner = arguments.device, contrast(arguments.width, method)
    channels_last(learner)
    settings = {"device": device, "bf16": choose_precision("auto", device) == "bf16", **changes}
    return Training(learner, views, **settings)


def our_batches(reader: SliceReader, arguments: argparse.Namespace) -> Callable[[int], Batches]:
    reader.hold_if_it_fits(arguments.device)  # as `poscon pretrain` does
    batches = UnlabelledBatches(reader, arguments.batch, ENDLESS, 0, ENDLESS)
    return lambda workers: StoreBatches(batches)


def compare(
    reader: SliceReader, views: ViewMaker, arguments: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Print the table of one size; returns poscon / each other, of views and of slices."""
    names = (OURS, *arguments.against)
    found = {name: build_pipeline(name, reader, views, arguments) for name in names}
    of_views = measure_views(found, arguments)
    slices = measure_slices(found, reader, views, arguments)
    best = {
        name: max(pipeline.workers, key=lambda n: statistics.median(slices[name, n]))
        for name, pipeline in found.items()
    }
    print_table(
        ["pipeline", "workers", "views/s, one core", "slices/s, end to end", "poscon / it"],
        [
            [
                name,
                f"{workers} (best)" if workers == best[name] else f"{workers}",
                f"{statistics.median(of_views[name]):.1f}",
                f"{statistics.median(rates):.2f}",
                f"{ratio(slices[OURS, 0], rates):.2f}",
            ]
            for (name, workers), rates in slices.items()
        ],
    )
    return {
        name: (
            ratio(of_views[OURS], of_views[name]),
            ratio(slices[OURS, 0], slices[name, best[name]]),
        )
        for name in found
        if name != OURS
    }


def measure_views(
    found: Mapping[str, Pipeline], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Views a second of each, read and made on one core without workers."""
    measures = {}
    with ExitStack() as stack:
        stack.enter_context(cores(1))
        for name, pipeline in found.items():
            training, batches = pipeline.training, stack.enter_context(closing(pipeline.batches(0)))
            training.make_views(batches)  # warms up
            measures[name] = partial(
                training.per_second, training.make_views, batches, arguments.seconds
            )
        rates = interleaved(measures, arguments.rounds)
    return {name: [2 * arguments.batch * r for r in values] for name, values in rates.items()}


def measure_slices(
    found: Mapping[str, Pipeline],
    reader: SliceReader,
    views: ViewMaker,
    arguments: argparse.Namespace,
) -> dict[tuple[str, int], list[float]]:
    """Slices a second end to end of each, with each number of workers."""
    measures: dict[tuple[str, int], Callable[[], float]] = {}
    with ExitStack() as stack:
        for name, pipeline in found.items():
            for workers in pipeline.workers:
                measures[name, workers] = stack.enter_context(
                    steps(pipeline, workers, arguments.seconds)
                    if pipeline.keeps_memory
                    else steps_apart(name, workers, reader, views, arguments)
                )
        rates = interleaved(measures, arguments.rounds)
    return {name: [arguments.batch * r for r in values] for name, values in rates.items()}


@contextmanager
def steps(pipeline: Pipeline, workers: int, seconds: float) -> Iterator[Callable[[], float]]:
    """Measures steps a second, warmed up."""
    training = pipeline.training
    with closing(pipeline.batches(workers)) as batches:
        with batches.running():
            for _ in range(2 * workers + 1):  # until as much is made ahead as is used up
                training.step(batches)
        yield partial(training.per_second, training.step, batches, seconds)


@contextmanager
def steps_apart(
    name: str, workers: int, reader: SliceReader, views: ViewMaker, arguments: argparse.Namespace
) -> Iterator[Callable[[], float]]:
    """:func:`steps` of a pipeline in a process of its own, whose allocator is as it comes."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    inputs = reader.store.path, reader.canvas, views.size, arguments
    process = context.Process(target=_measure_when_asked, args=(theirs, name, workers, *inputs))
    process.start()
    theirs.close()
    ours.recv()  # when it has warmed up

    def measure() -> float:
        ours.send(True)
        return ours.recv()

    yield measure
    ours.send(False)
    process.join()


def _measure_when_asked(
    asked: Connection,
    name: str,
    workers: int,
    store: Path,
    canvas: int,
    size: int,
    arguments: argparse.Namespace,
) -> None:
    opened, views = Store(store), ViewMaker(ViewSettings(), size)
    reader = SliceReader(opened, opened.cases, canvas)
    with cores(arguments.threads):
        pipeline = build_pipeline(name, reader, views, arguments)
        with steps(pipeline, workers, arguments.seconds) as measure:
            asked.send(True)
            while asked.recv():
                asked.send(measure())


def vary(reader: SliceReader, views: ViewMaker, arguments: argparse.Namespace) -> None:
    """Print what poscon's own step gains or loses by one change."""
    measures: dict[str, Callable[[], float]] = {}
    failed: dict[str, str] = {}
    batches = our_batches(reader, arguments)(0)
    for name, training in variants(views, arguments).items():
        try:
            training.step(batches)  # warms up
        except RuntimeError as error:  # no compiler, or no such kernel
            failed[name] = str(error).strip().splitlines()[0]
        else:
            measures[name] = partial(training.per_second, training.step, batches, arguments.seconds)
    with ExitStack() as stack:
        if arguments.device == "cpu":
            measures["freed memory given back"] = stack.enter_context(
                steps_apart(OURS, 0, reader, views, arguments)
            )
        rates = interleaved(measures, arguments.rounds)
    usual = next(iter(rates.values()))
    rows = [
        [name, f"{arguments.batch * statistics.median(values):.2f}", f"{ratio(values, usual):.2f}"]
        for name, values in rates.items()
    ]
    rows += [[name, f"not possible here: {reason}", ""] for name, reason in failed.items()]
    print_table(["poscon's step", "slices/s", "/ as it is"], rows)


def variants(views: ViewMaker, arguments: argparse.Namespace) -> dict[str, Training]:
    """The step as it is, first, and with one thing changed."""
    usual, first, compiled = (our_training(views, arguments) for _ in range(3))
    first.method.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    compiled.method.encoder.compile(dynamic=False)
    found = {
        "as it is": usual,
        "channels first": first,
        "views in two passes": our_training(views, arguments, TwoPasses),
        "float32" if usual.bf16 else "bfloat16": our_training(
            views, arguments, bf16=not usual.bf16
        ),
        "torch.compile": compiled,
    }
    if arguments.device == "cpu" and arguments.threads > 1:
        found["one thread"] = our_training(views, arguments, threads=1)
    return found


if __name__ == "__main__":
    run(main)
