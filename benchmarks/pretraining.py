"""Where the time of a pre-training step goes, and what the pipeline costs over bare arithmetic.

    python benchmarks/pretraining.py STORE [--size 48] [--batch 64] [--rounds 20]

Side by side in one run, step by step in turn: the full step (slices from the store, two views, PCL,
AdamW), the same step on one resident batch of random views, and that with the convolutions' memory
laid out channels first, as torch has it. Medians; also the parts of a step.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from poscon.engine.data import SliceReader, UnlabelledBatches
from poscon.engine.inference import channels_last
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.unet import Encoder, NetworkSettings
from poscon.pretext.pcl import positional_contrastive_loss
from poscon.store.store import Store
from poscon.views import ViewMaker, ViewSettings, canvas_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    store, size = Store(arguments.store), arguments.size
    views = ViewMaker(ViewSettings(), size)
    reader = SliceReader(store, store.cases, canvas_size(size, views.settings))
    batches = UnlabelledBatches(reader, arguments.batch, 1000, 0, 500)
    encoder = Encoder(NetworkSettings())
    head = ProjectionHead(encoder.settings.feature_channels, HeadSettings())
    model = nn.ModuleList([encoder, head])
    plain = copy.deepcopy(model)
    channels_last(model)
    optimisers = {net: torch.optim.AdamW(net.parameters()) for net in (model, plain)}
    resident = torch.randn(2 * arguments.batch, 1, size, size)
    positions = batches.batch(0).positions.repeat(2)
    spent: dict[str, list[float]] = {}

    def timed(name: str, part: Callable[[], torch.Tensor]) -> torch.Tensor:
        started = time.perf_counter()
        result = part()
        spent.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def learn(net: nn.ModuleList, images: torch.Tensor, positions: torch.Tensor, of: str) -> None:
        z = timed(f"{of}forward", lambda: net[1](net[0](images)[-1]))
        loss = timed(
            f"{of}loss",
            lambda: positional_contrastive_loss(z, positions, threshold=0.1, temperature=0.1),
        )
        optimiser = optimisers[net]
        optimiser.zero_grad()
        timed(f"{of}backward", lambda: (loss.backward(), loss)[1])
        timed(f"{of}optimiser", lambda: (optimiser.step(), loss)[1])

    for step in range(arguments.rounds + 2):
        if step == 2:  # two rounds to warm up
            spent.clear()
        started = time.perf_counter()
        batch = batches.batch(step)
        images = timed("read", lambda batch=batch: batch.images.float())  # type: ignore[misc]
        spent["read"][-1] = time.perf_counter() - started
        both = timed(
            "views",
            lambda images=images, step=step: torch.cat(  # type: ignore[misc]
                [views(images, step, view=0), views(images, step, view=1)]
            ),
        )
        learn(model, both, batch.positions.repeat(2), "")
        spent.setdefault("full step", []).append(time.perf_counter() - started)
        started = time.perf_counter()
        learn(model, resident, positions, "bare ")
        spent.setdefault("bare step", []).append(time.perf_counter() - started)
        started = time.perf_counter()
        learn(plain, resident, positions, "plain ")
        spent.setdefault("plain step", []).append(time.perf_counter() - started)
    median = {name: statistics.median(values) * 1e3 for name, values in spent.items()}
    ratio = statistics.median(
        bare / full for bare, full in zip(spent["bare step"], spent["full step"], strict=True)
    )
    print(f"{size} x {size}, {arguments.batch} slices, {torch.get_num_threads()} thread(s)")
    print("| part | ms a step | share |")
    print("|---|---|---|")
    for name in ("read", "views", "forward", "loss", "backward", "optimiser", "full step"):
        print(f"| {name} | {median[name]:.1f} | {median[name] / median['full step']:.1%} |")
    print(f"| bare step, resident batch | {median['bare step']:.1f} | {ratio:.1%} |")
    slower = median["plain step"] / median["bare step"]
    print(f"| bare step, channels first | {median['plain step']:.1f} | {slower:.2f} x bare |")
    print(f"\n{arguments.batch / median['full step'] * 1e3:.0f} slices a second")


if __name__ == "__main__":
    main()
