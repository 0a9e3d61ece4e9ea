"""What a training step of each method costs, relative to one forward pass of the encoder.

    python benchmarks/step_cost.py [--size 64] [--batch 32] [--rounds 9] [--threads 1]

Synthetic slices, the default network, the default settings of every method, AdamW. In every round
each method does one step, in turn, and so does the encoder (forward, without gradient, on the
slices of the batch once): what ``none`` would have to do to embed them. Medians over the rounds of
the ratio within a round. Reading from a store is left out, as it is the same for all.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from poscon import finetuning, pretext
from poscon.methods import Method
from poscon.networks.build import build_encoder, build_network
from poscon.networks.settings import NetworkSettings
from poscon.step import SliceBatch
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.inference import channels_last
from poscon.training.pretrain_settings import PretrainSettings
from poscon.views import ViewMaker, canvas_size

CLASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size, n = arguments.size, arguments.batch
    for title, settings, build in (
        ("Pre-training", PretrainSettings(), partial(pretraining, n)),
        ("Fine-tuning", FinetuneSettings(), finetuning_method),
    ):
        views = ViewMaker(settings.views, size)
        batch = random_batch(n, canvas_size(size, settings.views))
        steps: dict[str, Callable[[int], None]] = {}
        for name in (pretext if title == "Pre-training" else finetuning).METHODS:
            for stage, progress in stages(name).items():
                method = build(name)
                if method is not None:
                    steps[stage] = trainer(method, batch, views, progress)
        encoder = channels_last(build_encoder(NetworkSettings())).eval()
        images = views(batch.images, 0)
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(arguments.rounds + 1):
            with torch.no_grad():
                forward = seconds(partial(encoder, images))
            for name, step in steps.items():
                ratio = seconds(partial(step, round_)) / forward
                if round_:  # the first warms up
                    spent[name].append(ratio)
        print(f"\n{title}: {n} slices of {size} x {size}, {torch.get_num_threads()} thread(s)\n")
        print("| method | step / forward |\n|---|---|")
        for name, ratios in spent.items():
            print(f"| {name} | {statistics.median(ratios):.1f} |")


def stages(name: str) -> dict[str, float]:
    """The stages of a method and a progress within each: two of them change half way."""
    if name == "gcl":
        return {"gcl, global": 0.0, "gcl, local": 0.99}
    if name == "bcp":
        return {"bcp, copy-paste of labelled": 0.0, "bcp, self-training": 0.99}
    return {name: 0.5}


def pretraining(n_slices: int, name: str) -> Method | None:
    method = pretext.find_method(name)
    settings = PretrainSettings(method=name)
    if not method.trains:
        return None
    loss = method.Settings(**settings.loss)
    return method(build_encoder(settings.network), settings.head, loss, n_slices)


def finetuning_method(name: str) -> Method | None:
    method = finetuning.find_method(name)
    settings = FinetuneSettings(method=name)
    return method(build_network(NetworkSettings(), CLASSES), method.Settings(**settings.loss))


def random_batch(n: int, canvas: int) -> SliceBatch:
    def batch(labels: torch.Tensor | None) -> SliceBatch:
        return SliceBatch(
            torch.randn(n, 1, canvas, canvas),
            torch.rand(n),
            labels,
            slice_ids=torch.arange(n),
            volumes=torch.arange(n) // 4,
        )

    labelled = batch(torch.randint(0, CLASSES, (n, canvas, canvas), dtype=torch.uint8))
    labelled.unlabelled = batch(None)
    return labelled


def trainer(
    method: Method, batch: SliceBatch, views: ViewMaker, progress: float
) -> Callable[[int], None]:
    """One step of training: loss, backward, optimiser."""
    channels_last(method)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])

    def step(seed: int) -> None:
        optimiser.zero_grad()
        method.step(batch, views, seed, progress).loss.backward()
        optimiser.step()
        method.after_step()

    return step


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
