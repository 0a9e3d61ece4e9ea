"""The few looks on which the default views and the fine-tuning defaults were chosen.

    python experiments/defaults.py STORE OUT

STORE is the prepared hippocampus set (coronal). Of its subjects, shuffled by seed 2026, the first
52 are the test set of experiments/starts.py and are not touched here; the next 20 are looked at;
the rest is trained on. Two labelled subjects, draws 0, 1 and 2. Prints the mean Dice on the 20.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

import poscon
from poscon.store.store import Store

STRONG = "rotation: 30, scale: [0.75, 1.35], elastic: 0.01, brightness: 0.1, contrast: 0.25"
STRONG = f"views={{{STRONG}, gamma: 0.4, noise: 0.15}}"
MODERATE = "rotation: 15, scale: [0.85, 1.2], elastic: 0.005, brightness: 0.1, contrast: 0.15"
MODERATE = f"views={{{MODERATE}, gamma: 0.2, noise: 0.05}}"
FINETUNE = {
    "strong augmentation, 0.001": [STRONG, "optimiser.lr=0.001"],
    "strong augmentation, 0.003": [STRONG, "optimiser.lr=0.003"],
    "moderate augmentation, 0.001": [MODERATE, "optimiser.lr=0.001"],
    "moderate augmentation, 0.003": [MODERATE, "optimiser.lr=0.003"],
}
PRETRAIN = {
    "any angle, mirrored, no intensity change": [
        "views={mirror: true, rotation: 180, brightness: 0, contrast: 0, gamma: 0, noise: 0}"
    ],
    "up to 30 degrees, not mirrored, intensity changed": [
        "views={mirror: false, rotation: 30, brightness: 0.1, contrast: 0.25, gamma: 0.4, "
        "noise: 0.15}"
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store, out = arguments.store, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    subjects = sorted({case.subject for case in Store(store).cases})
    shuffled = [subjects[i] for i in np.random.default_rng(2026).permutation(len(subjects))]
    train, watched = out / "train.json", out / "watched.json"
    train.write_text(json.dumps(shuffled[72:]))
    watched.write_text(json.dumps(shuffled[52:72]))
    starts: list[tuple[str, Path | None, list[str]]] = [
        (f"random start, {name}", None, settings) for name, settings in FINETUNE.items()
    ]
    for name, settings in PRETRAIN.items():
        encoder = out / name.replace(" ", "-").replace(",", "")
        if not (encoder / "encoder.safetensors").is_file():
            poscon.pretrain(store, encoder, cases=train, epochs=4, settings=settings)
        starts.append((f"PCL, {name}", encoder, FINETUNE["moderate augmentation, 0.003"]))
    for name, init, settings in starts:
        for iterations in (200, 600):
            dice = []
            for draw in range(3):
                run = out / f"{name}-{iterations}-{draw}".replace(" ", "-").replace(",", "")
                if not (run / "model.safetensors").is_file():
                    poscon.finetune(
                        store,
                        run,
                        init=init,
                        labelled=2,
                        cases=train,
                        validation=watched,
                        iterations=iterations,
                        seed=draw,
                        settings=settings,
                    )
                with (run / "metrics.csv").open() as file:
                    dice.append(float(list(csv.DictReader(file))[-1]["validation_dice"]))
            text = ", ".join(f"{value:.3f}" for value in dice)
            print(f"{name}, {iterations} iterations: {np.mean(dice):.3f} ({text})", flush=True)


if __name__ == "__main__":
    main()
