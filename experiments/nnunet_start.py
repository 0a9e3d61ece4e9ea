"""nnU-Net v2 from the weights of a pre-training by poscon, and from none.

    python experiments/nnunet_start.py DATA OUT --nnunet-python NNUNET/bin/python
        [--seeds 0 1 2] [--labelled 6] [--watched 14] [--pretraining-epochs 3] [--epochs 15]
        [--iterations 20]

DATA is the Decathlon's Task04_Hippocampus. The steps are those of docs/how-to/export.md:

1. nnU-Net plans and preprocesses some subjects in 2-D: the labelled ones, drawn of
   hippocampus-train.txt, and those to watch, drawn of hippocampus-tune.txt.
2. ``poscon pretrain`` trains the network of these plans with PCL, on the slices of all other
   subjects of hippocampus-train.txt. No label is read.
3. ``poscon export --to nnunet`` writes the weights.
4. nnU-Net trains on the labelled subjects, for each seed once from these weights and once from
   none. It sees the same batches both times. Then it validates on the watched subjects.

The subjects of hippocampus-test.txt take no part. Everything runs in one thread on one core: the
last one that the process may use (``taskset -c`` says which). OUT/curve.csv has every epoch of
nnU-Net's logs, OUT/curve.png the curves, and OUT/start.md the settings and the Dice at the end.
What is done in OUT is not done again. An interrupted pre-training is continued, an interrupted
training of nnU-Net begins again.
"""

import argparse
import csv
import io
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import torch
from versus_nnunet import (
    HERE,
    RAW,
    done,
    nnunet_versions,
    note_settings,
    one_core,
    run_side,
    write_raw,
)

import poscon
from poscon.errors import PosconError
from poscon.files import alone, check_outside, complete, read_json, write_text
from poscon.statistics import differences
from poscon.store.manifest import MANIFEST, write_json
from poscon.store.names import read_names
from poscon.store.selection import draw_subjects
from poscon.store.store import Store
from poscon.training.run import RunFolder, part_file
from poscon.volumes.layouts import read_dataset

TRAIN = HERE / "hippocampus-train.txt"
TUNE = HERE / "hippocampus-tune.txt"
PLANE = "axial"
"""nnU-Net slices these files along the last axis."""
SIZE = 56
"""The longer side of the patch that nnU-Net plans."""
PLANS = "nnUNetPlans.json"
STARTS = {"none": "random weights", "pcl": "weights of PCL"}
COLOURS = {"none": "0.45", "pcl": "tab:blue"}
ROWS = ("start", "seed", "epoch", "iterations", "train_loss", "val_loss", "dice")
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nnunet-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labelled", type=int, default=6, help="subjects that nnU-Net trains on")
    parser.add_argument("--watched", type=int, default=14, help="subjects that it validates on")
    parser.add_argument("--pretraining-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15, help="of nnU-Net")
    parser.add_argument("--iterations", type=int, default=20, help="of an epoch of nnU-Net")
    given = parser.parse_args(argv)
    try:
        check_outside(given.out, given.data)
        versions = nnunet_versions(given.nnunet_python)
        with alone(given.out, "comparison"), one_core():
            comparison = Comparison(
                given.data,
                given.out.resolve(),
                given.nnunet_python,
                given.labelled,
                given.watched,
                given.pretraining_epochs,
                given.epochs,
                given.iterations,
            )
            comparison.begin(versions)
            for seed in given.seeds:
                for start in STARTS:
                    comparison.train(start, seed)
                comparison.report()
        print((given.out / "start.md").read_text())
    except PosconError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where.

    Attributes:
        data: the data set.
        out: folder of all that is made, absolute.
        python: Python that has nnU-Net.
        labelled: number of subjects that nnU-Net trains on.
        watched: number of subjects that it validates on.
        pretraining_epochs: how often PCL sees every slice.
        epochs: of nnU-Net.
        iterations: of an epoch of nnU-Net.
    """

    data: Path
    out: Path
    python: Path
    labelled: int
    watched: int
    pretraining_epochs: int
    epochs: int
    iterations: int

    @cached_property
    def store(self) -> Store:
        """The data set, prepared by poscon."""
        path = self.out / "store"
        if not (path / MANIFEST).is_file():
            poscon.prepare(self.data, path, plane=PLANE, processes=1)
        return Store(path)

    @property
    def nnunet(self) -> Path:
        return self.out / "nnunet"

    @property
    def weights(self) -> Path:
        return self.out / "export" / "pretrained.pth"

    def begin(self, versions: dict[str, str]) -> None:
        """Note the settings, plan, pre-train and export, as far as that is not done.

        Raises:
            PosconError: the folder has a comparison with other settings, or a step failed.
        """
        pool, tune = (self.store.select(read_names(names), where=str(names)) for names in
                      (TRAIN, TUNE))  # fmt: skip
        labelled = sorted({c.subject for c in draw_subjects(pool, self.labelled, 0)})
        watched = sorted({c.subject for c in draw_subjects(tune, self.watched, 0)})
        others = sorted({c.subject for c in pool} - set(labelled))
        settings = {
            "labelled subjects": labelled,
            "watched subjects": watched,
            "subjects of the pre-training": len(others),
            "epochs of the pre-training": self.pretraining_epochs,
            "epochs": self.epochs,
            "iterations of an epoch": self.iterations,
            "plane": PLANE,
            "poscon": poscon.__version__,
            "torch": str(torch.__version__),
            **versions,
        }
        note_settings(self.out, settings)
        raw = self.nnunet / "raw" / RAW
        if not raw.is_dir():
            with complete(raw) as folder:
                write_raw(folder, read_dataset(self.data), [*labelled, *watched], [])
        preprocessed = self.nnunet / "preprocessed" / RAW
        done(
            self.nnunet / "preparation.json",
            lambda: run_side(self.python, self.nnunet, self.nnunet, "prepare", RAW),
        )
        write_json(preprocessed / "splits_final.json", [{"train": labelled, "val": watched}])
        run = self.out / "pretraining"
        if not part_file(run, "encoder").is_file():
            self.pretrain(run, others, preprocessed / PLANS)
        if not self.weights.is_file():
            poscon.export(run, self.weights.parent, to="nnunet")

    def pretrain(self, run: Path, subjects: list[str], plans: Path) -> None:
        print("pretraining", file=sys.stderr, flush=True)
        if RunFolder(run).begun:
            poscon.pretrain(self.store.path, run, resume=True)
            return
        network = {"architecture": "nnunet", "plans": str(plans)}
        poscon.pretrain(
            self.store.path,
            run,
            cases=subjects,
            epochs=self.pretraining_epochs,
            settings={"network": network, "size": SIZE, "batch": 32},
            device="cpu",
        )

    def place(self, start: str, seed: int) -> Path:
        """Folder of a training of nnU-Net."""
        return self.out / f"{start}-{seed}"

    def train(self, start: str, seed: int) -> None:
        """Train nnU-Net, unless that is done."""
        place = self.place(start, seed)
        if not (place / "training.json").is_file():
            shutil.rmtree(place, ignore_errors=True)  # what an interruption left
            place.mkdir()
        weights = "none" if start == "none" else self.weights
        arguments = ("start", RAW, weights, self.epochs, self.iterations, seed)
        done(
            place / "training.json",
            lambda: run_side(self.python, self.nnunet, place, *arguments),
        )

    def report(self) -> None:
        """Write curve.csv, curve.png and start.md from every seed of which both starts are done."""
        seeds = [
            int(p.name.rpartition("-")[2])
            for p in sorted(self.out.glob("none-*"))
            if all(
                (self.place(start, int(p.name.rpartition("-")[2])) / "training.json").is_file()
                for start in STARTS
            )
        ]
        trained = {
            (start, seed): read_json(self.place(start, seed) / "training.json")
            for seed in seeds
            for start in STARTS
        }
        rows = [
            {"start": start, "seed": seed, "iterations": (r["epoch"] + 1) * self.iterations, **r}
            for (start, seed), told in trained.items()
            for r in read_log(Path(told["log"]).read_text())
        ]
        write_text(self.out / "curve.csv", as_csv(rows))
        draw(rows, self.out / "curve.png")
        write_text(self.out / "start.md", table(trained, read_json(self.out / "settings.json")))


def read_log(text: str) -> list[dict[str, Any]]:
    """The epochs of a training log of nnU-Net: losses, and the mean of its pseudo Dice."""
    epochs: list[dict[str, Any]] = []
    for line in text.splitlines():
        if found := re.search(r": Epoch (\d+)\s*$", line):
            epochs.append({"epoch": int(found[1])})
        elif found := re.search(rf"(train_loss|val_loss) ({NUMBER}|nan)", line):
            epochs[-1][found[1]] = float(found[2])
        elif "Pseudo dice" in line:
            text = re.sub(r"np\.float\d+", "", line.partition("[")[2])
            epochs[-1]["dice"] = round(fmean(map(float, re.findall(NUMBER, text))), 4)
    return [epoch for epoch in epochs if "dice" in epoch]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """CSV: a row for each start, seed and epoch."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ROWS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the losses and the Dice of each epoch: every seed thin, their mean thick."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, value, name in (
        (panels[0], "dice", "pseudo Dice of the watched subjects"),
        (panels[1], "val_loss", "loss of the watched subjects"),
    ):
        for start, words in STARTS.items():
            of_start = [row for row in rows if row["start"] == start]
            seeds = sorted({row["seed"] for row in of_start})
            curves = [[row[value] for row in of_start if row["seed"] == seed] for seed in seeds]
            steps = [row["iterations"] for row in of_start if row["seed"] == seeds[0]]
            if len(seeds) > 1:
                for curve in curves:
                    axes.plot(steps, curve, color=COLOURS[start], linewidth=0.7, alpha=0.5)
            mean = [fmean(values) for values in zip(*curves, strict=True)]
            axes.plot(steps, mean, color=COLOURS[start], linewidth=2, label=f"from {words}")
        axes.set(xlabel="iterations of nnU-Net", ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    with complete(path) as part:
        figure.savefig(part, dpi=110, format="png")
    plt.close(figure)


def table(trained: dict[tuple[str, int], dict[str, Any]], settings: dict[str, Any]) -> str:
    """Markdown: the mean Dice of nnU-Net's validation for each start and seed, and the settings."""
    seeds = sorted({seed for _, seed in trained})
    lines = ["| nnU-Net from | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
    lines.append("|---" * (len(seeds) + 2) + "|")
    for start, words in STARTS.items():
        dice = [fmean(trained[start, seed]["dice"]) for seed in seeds]
        lines.append(f"| {words} | " + " | ".join(f"{d:.3f}" for d in [*dice, fmean(dice)]) + " |")
    by_subject = {
        start: {
            str(i): fmean(values)
            for i, values in enumerate(
                zip(*(trained[start, seed]["dice"] for seed in seeds), strict=True)
            )
        }
        for start in STARTS
    }
    found = differences(by_subject["none"], {"pcl": by_subject["pcl"]})["pcl"]
    low, high = found.interval.low, found.interval.high
    one = next(iter(trained.values()))
    told = {**settings, "batch": one["batch"], "patch": one["patch"], "features": one["features"]}
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in trained.values())
    told["seconds of the trainings"] = seconds
    return "\n".join(
        [
            *lines,
            "",
            f"Difference of the means over seeds, over the watched subjects: {found.mean:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], p = {found.p:.2g}.",
            "",
            *(f"- {name}: {_plain(value)}" for name, value in told.items()),
            "",
        ]
    )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
