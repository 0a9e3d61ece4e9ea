"""Which part of the published recipe keeps the loss at chance at small scale, one change at a time.

    python experiments/collapse.py STORE OUT --cases SPLIT.json:train [--epochs 12]

STORE is a prepared ACDC store. Every variant sees the same slices in the same order. Printed and
written to OUT/collapse.md, for each: the mean cosine between different embeddings and the norm of
the encoder's gradient, both before the first step, and the loss by epoch. What is in OUT already is
not trained again.
"""

import argparse
import csv
from pathlib import Path

import torch

import poscon
from poscon.networks.build import build_encoder
from poscon.pretext.contrast import floor_level
from poscon.pretext.pcl import PositionalContrast, near
from poscon.seeds import stream
from poscon.settings import resolve
from poscon.store.selection import choose_cases
from poscon.store.store import Store
from poscon.training.data import SliceReader, UnlabelledBatches
from poscon.training.pretrain_settings import PretrainSettings
from poscon.views import ViewMaker, canvas_size

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
ADAMW = "optimiser={name: adamw, lr: 0.001, momentum: null, weight_decay: 1.0e-4, warmup: 0.05}"
VARIANTS: dict[str, list[str]] = {
    "published": [],
    "norm in the bottleneck": ["network.bottleneck_norm=true"],
    "norm in the head": ["head.norm=true"],
    "norm in both": ["network.bottleneck_norm=true", "head.norm=true"],
    "learning rate 0.01": ["optimiser.lr=0.01"],
    "AdamW 0.001": [ADAMW],
    "norm in both, AdamW 0.001": ["network.bottleneck_norm=true", "head.norm=true", ADAMW],
}
EPOCHS_SHOWN = (1, 2, 5, 12)


def before_the_first_step(store: Store, cases: str | None, settings: list[str]) -> dict[str, float]:
    """Similarity, norm of the encoder's gradient, chance and floor on the run's first batch."""
    chosen = resolve(PretrainSettings, "pretrain", None, settings)
    assert isinstance(chosen.size, int)
    reader = SliceReader(
        store, choose_cases(store, cases, None), canvas_size(chosen.size, chosen.views)
    )
    batches = UnlabelledBatches(reader, chosen.batch, 1, chosen.seed, 1)
    batch = batches.batch(0)
    batch.images = batch.images.float()
    torch.manual_seed(stream(chosen.seed, "initialisation"))
    method = PositionalContrast(
        build_encoder(chosen.network),
        chosen.head,
        PositionalContrast.Settings(**chosen.loss),
        len(reader),
    )
    views = ViewMaker(chosen.views, chosen.size)
    step = method.step(batch, views, stream(chosen.seed, "step", 0), 0.0)
    step.loss.backward()
    squares = [p.grad.square().sum() for p in method.encoder.parameters() if p.grad is not None]
    threshold = chosen.loss["threshold"]
    floors = []
    for number in range(batches.total_steps):
        positions = batches.batch(number).positions.repeat(2)
        floors.append(float(floor_level(near(positions, positions, threshold))))
    assert step.chance is not None
    return {
        "similarity": float(step.logs["similarity"]),
        "gradient": float(torch.stack(squares).sum().sqrt()),
        "chance": float(step.chance),
        "floor": sum(floors) / len(floors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = Store(arguments.store)
    epochs = [epoch for epoch in EPOCHS_SHOWN if epoch <= arguments.epochs]
    columns = ["variant", "similarity before", "gradient before"]
    columns += [f"loss, epoch {epoch}" for epoch in epochs] + ["learnt, last", "similarity, last"]
    lines = ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, changes in VARIANTS.items():
        settings = [*PUBLISHED, *changes]
        start = before_the_first_step(store, arguments.cases, settings)
        run = arguments.out / name.replace(" ", "-").replace(",", "")
        if not (run / "encoder.safetensors").is_file():
            poscon.pretrain(
                arguments.store,
                run,
                cases=arguments.cases,
                epochs=arguments.epochs,
                settings=settings,
            )
        with (run / "metrics.csv").open() as file:
            metrics = [row for row in csv.DictReader(file) if row["loss"]]
        losses = [float(row["loss"]) for row in metrics]
        learnt = (start["chance"] - losses[-1]) / (start["chance"] - start["floor"])
        cells = [name, f"{start['similarity']:.3f}", f"{start['gradient']:.2g}"]
        cells += [f"{losses[epoch - 1]:.3f}" for epoch in epochs]
        cells += [f"{learnt:.0%}", f"{float(metrics[-1]['similarity']):.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
        lines[0] = f"chance {start['chance']:.3f}, floor {start['floor']:.3f}\n"
        (arguments.out / "collapse.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
