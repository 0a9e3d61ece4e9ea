"""What a sampler does to the positives of an anchor, and to the encoder.

    python experiments/samplers.py STORE OUT [--batch 32] [--epochs 10] [--exclude FILE]
        [--set KEY=VALUE]

Printed and written to OUT/samplers.md. First, over the batches of five epochs, how many slices of
other subjects are positives of an anchor (PCL's rule, its default threshold): the mean, the mean
over batches of the worst anchor's, and the share of anchors that have none. Then a PCL pre-training
with each sampler, same slices seen, and the diagnostics at its end. What is in OUT already is not
trained again; ``--epochs 0`` trains nothing.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

import poscon
from poscon.pretext.pcl import PositionalContrast, near
from poscon.store.selection import choose_cases
from poscon.store.store import Store
from poscon.training.data import SliceReader
from poscon.training.samplers import SAMPLERS, SamplerName

EPOCHS_COUNTED = 5
DIAGNOSTICS = ("alignment", "uniformity", "effective_rank", "retrieval_error")


def positives_elsewhere(reader: SliceReader, name: SamplerName, batch: int) -> list[float]:
    """Mean, mean of the worst of a batch, and share of none."""
    sampler = SAMPLERS[name](reader.positions, reader.subject_of, batch, 0)
    threshold = PositionalContrast.Settings().threshold
    counts = []
    for step in range(EPOCHS_COUNTED * sampler.epoch_steps):
        indices = sampler(step)
        subjects = torch.from_numpy(reader.subject_of[indices])
        positions = torch.from_numpy(reader.positions[indices])
        positive = near(positions, positions, threshold)
        counts.append((positive & (subjects[:, None] != subjects)).sum(dim=1).numpy())
    found = np.array(counts)
    return [float(found.mean()), float(found.min(axis=1).mean()), float((found == 0).mean())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--exclude")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    store = Store(arguments.store)
    reader = SliceReader(store, choose_cases(store, None, arguments.exclude), 1)
    trained = ["loss", *DIAGNOSTICS] if arguments.epochs else []
    lines = [
        "| sampler | "
        + " | ".join(["positives in other subjects", "of the worst", "random", *trained])
        + " |",
        "|---" * (4 + len(trained)) + "|",
    ]
    for name in SAMPLERS:
        mean, worst, none = positives_elsewhere(reader, name, arguments.batch)
        cells = [name, f"{mean:.1f}", f"{worst:.1f}", f"{none:.1%}"]
        if arguments.epochs:
            run = arguments.out / name
            if not (run / "encoder.safetensors").is_file():
                poscon.pretrain(
                    arguments.store,
                    run,
                    exclude=arguments.exclude,
                    epochs=arguments.epochs,
                    settings=[f"sampler={name}", f"batch={arguments.batch}", *arguments.set],
                )
            with (run / "metrics.csv").open() as file:
                row = list(csv.DictReader(file))[-1]
            cells += [f"{float(row[name]):.3f}" for name in trained]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "samplers.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
