"""What the training loop costs over the bare arithmetic of its steps.

    python benchmarks/overhead.py STORE [--size 48 96] [--seconds 60] [--precision 32]
                                  [--width 16] [--batch 32] [--device cpu]

The store must be labelled. In turn, seven times each: the training loop as the commands run it
(slices from the store, views, loss, optimiser, logging; all but its start and its checkpoints), and
the same steps on one resident batch of random pictures. Pre-training by PCL, and fine-tuning of a
random start, with the default settings, except those asked for.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from poscon.memory import keep_freed_memory
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings, fit_channels
from poscon.store.store import Store
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.finetune_training import finetune_training
from poscon.training.inference import choose_device
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.timing import Training, measure_overhead


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--seconds", type=float, default=60, help="for each row")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--width", type=int, default=NetworkSettings().width, help="of the network")
    parser.add_argument("--batch", type=int, help="slices a step; default: as the commands")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command line does
    store, device = Store(arguments.store), choose_device(arguments.device)
    changes: dict[str, Any] = {
        "precision": arguments.precision,
        "network": NetworkSettings(width=arguments.width),
    }
    if arguments.batch:
        changes["batch"] = arguments.batch
    print(
        f"{device}, precision {arguments.precision}, width {arguments.width}, "
        f"{torch.get_num_threads()} thread(s)\n"
    )
    print("| training | slices a step | pixels | slices a second | bare arithmetic | the turns |")
    print("|---|---|---|---|---|---|")
    for size in arguments.size:
        builders: dict[str, Callable[[], Training]] = {
            "pre-training, pcl": partial(
                pretraining, store, size, device, PretrainSettings(**changes)
            ),
            "fine-tuning, supervised": partial(
                finetuning_of, store, size, device, FinetuneSettings(**changes)
            ),
        }
        for name, build in builders.items():
            result = measure_overhead(build, arguments.seconds)
            turns = [bare / full for bare, full in zip(result.bare, result.full, strict=True)]
            print(
                f"| {name} | {result.slices} | {size} x {size} | {result.slices_per_second:.0f} "
                f"| {result.share:.1%} | {', '.join(f'{turn:.1%}' for turn in turns)} |",
                flush=True,
            )


def pretraining(store: Store, size: int, device: str, chosen: PretrainSettings) -> Training:
    learner, reader, views, batches = assemble(chosen, store, store.cases, size)
    reader.hold_if_it_fits(device)
    return Training(learner, views, batches, chosen.optimiser, device, chosen.precision)


def finetuning_of(store: Store, size: int, device: str, chosen: FinetuneSettings) -> Training:
    settings = fit_channels(chosen.network or NetworkSettings(), store.channels, store.path)
    network = build_network(settings, len(store.class_names) + 1)
    sized = chosen.model_copy(update={"size": size, "device": device})
    labelled = [case for case in store.cases if case.labelled]
    return finetune_training(sized, store, {"labelled": labelled}, network)


if __name__ == "__main__":
    main()
