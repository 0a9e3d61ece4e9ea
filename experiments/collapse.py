"""Which part of the published recipe keeps the loss at chance at small scale, one change at a time.

    python experiments/collapse.py STORE OUT [--cases FILE] [--epochs 12]

STORE is a prepared ACDC store. Every variant sees the same slices in the same order. A row is added
to OUT/collapse.csv after each variant; variants that are there are not run again.
"""

import argparse
import csv
from pathlib import Path

import torch

import poscon

PUBLISHED = [
    "size=96",
    "batch=64",
    "loss.threshold=0.35",
    "loss.temperature=0.1",
    "network.bottleneck_norm=false",
    "head.norm=false",
    "head.dimension=512",
    "optimiser={name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 1.0e-5, warmup: 0.0}",
    "views={mirror: true, warp_probability: 0.67, rotation: 180, shift: 0.0, elastic: 0.007, "
    "elastic_points: 12, brightness: 0.0, contrast: 0.0, gamma: 0.0, noise: 0.0}",
]
VARIANTS: dict[str, list[str]] = {
    "published": [],
    "norm in the bottleneck": ["network.bottleneck_norm=true"],
    "norm in the head": ["head.norm=true"],
    "norm in both": ["network.bottleneck_norm=true", "head.norm=true"],
    "learning rate 0.01": ["optimiser.lr=0.01"],
    "AdamW 0.001": ["optimiser={name: adamw, lr: 0.001}"],
    "norm in both, AdamW 0.001": [
        "network.bottleneck_norm=true",
        "head.norm=true",
        "optimiser={name: adamw, lr: 0.001}",
    ],
}
EPOCHS_SHOWN = (1, 2, 5, 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, changes in VARIANTS.items():
        run = arguments.out / name.replace(" ", "-").replace(",", "")
        if not (run / "encoder.safetensors").is_file():
            poscon.pretrain(
                arguments.store,
                run,
                cases=arguments.cases,
                epochs=arguments.epochs,
                settings=[*PUBLISHED, *changes],
            )
        with (run / "metrics.csv").open() as file:
            metrics = list(csv.DictReader(file))
        row: dict[str, object] = {"variant": name, "chance": round(float(metrics[0]["chance"]), 3)}
        for epoch in EPOCHS_SHOWN:
            if epoch <= len(metrics):
                row[f"loss, epoch {epoch}"] = round(float(metrics[epoch - 1]["loss"]), 3)
        row["similarity, epoch 1"] = round(float(metrics[0]["similarity"]), 3)
        row["similarity, last"] = round(float(metrics[-1]["similarity"]), 3)
        rows.append(row)
        with (arguments.out / "collapse.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(row, flush=True)


if __name__ == "__main__":
    main()
