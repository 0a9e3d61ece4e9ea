"""What could make the baseline, or a pre-trained start, *better*: one change at a time.

    python experiments/better.py DATASET SOURCE OUT [--only NAME;...] [--draws N]

Data set, stores, pre-training subjects and budget as in comparison.py (OUT may be the same folder).
Fine-tuned are 3 labelled subjects; measured is the mean Dice over cases and classes, on the store's
own grid, of subjects that are not test subjects and are only used to choose by: the 10 validation
patients of ACDC, 20 training subjects of hippocampus drawn by seed 2026 (which are neither labelled
nor pre-trained on here). OUT/better.md has a row a variant: mean over the draws, each draw,
difference to the random start and to plain PCL; and the same models' Dice if only the largest
structure of each volume is kept (the setting ``keep_largest_component``). What is in OUT is not
done again.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comparison import DRAWS, PLANS, SPLIT_SEED, finetune_once, pretrain_once, split

import poscon
from poscon.models import Model
from poscon.store.manifest import MANIFEST
from poscon.store.store import Store
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.validation import mean_dice

LABELLED = 3
TUNING = 20


@dataclass(frozen=True)
class Variant:
    """One thing to try.

    Attributes:
        start: pre-training method.
        pretrain: settings of the pre-training besides the budget.
        method: of fine-tuning.
        finetune: settings of the fine-tuning besides the budget.
        longer: by how much the pre-training is.
    """

    start: str = "pcl"
    pretrain: tuple[str, ...] = ()
    method: str = "supervised"
    finetune: tuple[str, ...] = ()
    longer: int = 1


COSINE = "optimiser.min_lr=0"
LAST = "ema_decay=0"
MODERATE = (
    "views={rotation: 15, scale: [0.85, 1.2], shift: 0.0, elastic: 0.005, brightness: 0.1, "
    "contrast: 0.15, gamma: 0.2, noise: 0.05, blur: 0, low_resolution: 1, "
    "intensity_probability: 1}"
)
VARIANTS = {
    "random": Variant("random"),
    "pcl": Variant(),
    "mae": Variant("mae"),
    "random, moderate views": Variant("random", finetune=(MODERATE,)),
    "random, no deep supervision": Variant("random", finetune=("deep_supervision=0",)),
    "random, mirrored": Variant("random", finetune=("views.mirror=true",)),
    "random, cosine to the last weights": Variant("random", finetune=(COSINE, LAST)),
    "random, cosine, averaged": Variant("random", finetune=(COSINE,)),
    "pcl, cosine to the last weights": Variant(finetune=(COSINE, LAST)),
    "pcl, encoder at 0.3": Variant(finetune=("encoder_rate.factor=0.3",)),
    "pcl, encoder at 0.1": Variant(finetune=("encoder_rate.factor=0.1",)),
    "pcl, encoder frozen for 0.2": Variant(finetune=("encoder_rate.frozen=0.2",)),
    "pcl, threshold 0.05": Variant(pretrain=("loss.threshold=0.05",)),
    "pcl, threshold 0.2": Variant(pretrain=("loss.threshold=0.2",)),
    "pcl, temperature 0.3": Variant(pretrain=("loss.temperature=0.3",)),
    "pcl, unturned views": Variant(pretrain=("views.rotation=10", "views.scale=[0.9, 1.1]")),
    "pcl, three times as long": Variant(longer=3),
    "gcl": Variant("gcl"),
    "rotation": Variant("rotation"),
    "pcl-mae": Variant("pcl-mae"),
    "pcl-mae, encoder frozen for 0.2": Variant("pcl-mae", finetune=("encoder_rate.frozen=0.2",)),
    "random, supervised-pcl": Variant("random", method="supervised-pcl"),
    "pcl, supervised-pcl": Variant(method="supervised-pcl"),
    "pcl, supervised-pcl at 0.1": Variant(method="supervised-pcl", finetune=("loss.weight=0.1",)),
    "mae, encoder only": Variant("mae", finetune=("init_parts=encoder",)),
    "random, mixup": Variant("random", method="mixup"),
    "random, tcsm": Variant("random", method="tcsm"),
    "random, bcp": Variant("random", method="bcp"),
    "random, bcp, later": Variant("random", method="bcp", finetune=("loss.pretraining=0.75",)),
    "pcl, bcp": Variant(method="bcp"),
    "random, mean-teacher": Variant("random", method="mean-teacher"),
    "pcl, mean-teacher": Variant(method="mean-teacher"),
}


class Tuning:
    """One data set."""

    def __init__(self, name: str, source: Path, out: Path) -> None:
        self.plan, self.out = PLANS[name], out
        self.store = out / "store"
        if not (self.store / MANIFEST).is_file():
            poscon.prepare(source, self.store, **self.plan.prepare)  # type: ignore[arg-type]
        train, test = split(name, source, Store(self.store))
        if name.startswith("acdc"):
            watched = test  # the test patients are not at hand: this is what to choose by
        else:
            order = np.random.default_rng(SPLIT_SEED).permutation(len(train))[:TUNING]
            watched = [train[i] for i in order]
            train = [subject for subject in train if subject not in watched]
        self.lists = {"better-train": train, "better-watched": watched}
        for stem, subjects in self.lists.items():
            self.file(stem).write_text(json.dumps(subjects))

    def file(self, stem: str) -> Path:
        return self.out / f"{stem}.json"

    def run(self, name: str, draw: int) -> Path:
        return self.out / f"better-{name.replace(', ', '-').replace(' ', '-')}-d{draw}"

    def pretrain(self, variant: Variant) -> Path:
        name = "-".join([variant.start, *variant.pretrain]).replace(" ", "")
        if variant.longer > 1:
            name += f"-{variant.longer}-times"
        run = self.out / f"better-pretrain-{name}"
        pretrain_once(
            self.store,
            run,
            method=variant.start,
            cases=self.file("better-train"),
            epochs=self.plan.epochs * variant.longer,
            settings=[*self.settings, *variant.pretrain],
        )
        return run

    @property
    def settings(self) -> list[str]:
        return [f"size={self.plan.size}", *self.plan.network, "precision=bf16"]

    def dice(self, name: str, draw: int) -> float:
        """Fine-tune, if that is not done yet."""
        variant = VARIANTS[name]
        run = self.run(name, draw)
        finetune_once(
            self.store,
            run,
            init=None if variant.start == "random" else self.pretrain(variant),
            labelled=LABELLED,
            cases=self.file("better-train"),
            validation=self.file("better-watched"),
            method=variant.method,
            iterations=self.plan.iterations,
            seed=draw,
            settings=[
                *self.settings,
                f"batch={self.plan.batch}",
                f"checkpoint_every={self.plan.iterations}",
                *variant.finetune,
            ],
        )
        with (run / "metrics.csv").open(newline="") as file:
            return float(list(csv.DictReader(file))[-1]["validation_dice"])

    def dice_of_largest(self, name: str, draw: int) -> float:
        """The same of the same model, if it had been told ``keep_largest_component=true``."""
        kept = self.out / f"{self.run(name, draw).name}-largest.json"
        if not kept.is_file():
            model, store = Model(self.run(name, draw), "cpu"), Store(self.store)
            watched = set(json.loads(self.file("better-watched").read_text()))
            cases = [case for case in store.cases if case.subject in watched]
            told = FinetuneSettings(precision="bf16", size=model.size, keep_largest_component=True)
            dice = mean_dice(model.network, store, cases, told)["validation_dice"]
            kept.write_text(json.dumps(dice))
        return float(json.loads(kept.read_text()))


def table(dice: dict[str, list[float]], largest: dict[str, list[float]]) -> str:
    """Markdown; only the draws that both have are compared."""
    lines = [
        "| variant | Dice | draws | against random | against pcl | Dice, largest structure only |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in dice.items():
        cells = [name, f"{np.mean(values):.3f}", ", ".join(f"{v:.3f}" for v in values)]
        for reference in ("random", "pcl"):
            pairs = list(zip(values, dice.get(reference, []), strict=False))
            own = name == reference or not pairs
            cells.append("" if own else f"{np.mean([a - b for a, b in pairs]):+.3f}")
        cells.append(f"{np.mean(largest[name]):.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="names of variants, separated by semicolons")
    parser.add_argument("--draws", type=int, default=len(DRAWS))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    names = arguments.only.split(";") if arguments.only else list(VARIANTS)
    tuning = Tuning(arguments.dataset, arguments.source, arguments.out)
    dice: dict[str, list[float]] = {}
    largest: dict[str, list[float]] = {}
    for draw in DRAWS[: arguments.draws]:
        for name in names:
            dice.setdefault(name, []).append(tuning.dice(name, draw))
            largest.setdefault(name, []).append(tuning.dice_of_largest(name, draw))
            (arguments.out / "better.md").write_text(table(dice, largest) + "\n")
    print(table(dice, largest))


if __name__ == "__main__":
    main()
