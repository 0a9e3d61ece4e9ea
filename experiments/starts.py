"""PCL start against random start: Dice against the fine-tuning budget, for few labelled subjects.

    python experiments/starts.py hippocampus SOURCE OUT
    python experiments/starts.py acdc SOURCE OUT

SOURCE is the data set's folder (Decathlon Task04_Hippocampus; ACDC with its split.json beside
``training/``). Everything goes to OUT; what is there is not computed again, so the script may be
stopped and started at will. At the end OUT/results.csv has a row a run, test subject and class, and
OUT/summary.md the tables.

Protocol: pre-training sees the training subjects only. Draw d takes the first M subjects of the
order of seed d, for both starts alike, and d is the seed of the fine-tuning too. The model is the
last state. A subject's Dice is the mean over its frames and classes; the tables give mean and
standard deviation over test subjects, of the mean over draws.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import poscon
from poscon.report.predictions import draw_predictions
from poscon.store.store import MANIFEST, Store

STARTS = ("random", "pcl")
DRAWS = (0, 1, 2)
LABELLED = (2, 6)
SPLIT_SEED = 2026
FIELDS = ("start", "labelled", "iterations", "draw", "subject", "case", "class")
MEASURES = ("dice", "hd95_mm", "assd_mm")


@dataclass(frozen=True)
class Plan:
    """One data set's budget."""

    prepare: dict[str, str]
    pretrain: list[str]
    finetune: list[str]
    iterations: tuple[int, ...]


PLANS = {
    "hippocampus": Plan(
        prepare={"plane": "coronal"},
        pretrain=["epochs=20"],
        finetune=[],
        iterations=(200, 1000),
    ),
    "acdc": Plan(
        prepare={},
        pretrain=["size=96", "epochs=40"],
        finetune=["size=96"],
        iterations=(200, 600),
    ),
}


def split(name: str, source: Path, store: Store) -> tuple[list[str], list[str]]:
    """Training and test subjects."""
    if name == "acdc":
        content = json.loads((source / "split.json").read_text())
        return content["train"], content["validation"]
    subjects = sorted({case.subject for case in store.cases})
    order = np.random.default_rng(SPLIT_SEED).permutation(len(subjects))
    shuffled = [subjects[i] for i in order]
    return shuffled[52:], shuffled[:52]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plan, out, source = PLANS[arguments.dataset], arguments.out, arguments.source
    store = out / "store"
    if not (store / MANIFEST).is_file():
        poscon.prepare(source, store, **plan.prepare)  # type: ignore[arg-type]
    train, test = split(arguments.dataset, source, Store(store))
    lists = {"train": out / "train.json", "test": out / "test.json"}
    lists["train"].write_text(json.dumps(train))
    lists["test"].write_text(json.dumps(test))

    encoder = out / "pretrain"
    if not (encoder / "encoder.safetensors").is_file():
        if (encoder / "config.yaml").is_file():
            poscon.pretrain(store, encoder, resume=True)
        else:
            poscon.pretrain(store, encoder, cases=lists["train"], settings=plan.pretrain)
    rows = []
    for iterations in plan.iterations:
        for labelled in LABELLED:
            for draw in DRAWS:
                for start in STARTS:
                    run = out / f"{start}-m{labelled}-i{iterations}-d{draw}"
                    if not (run / "results.csv").is_file():
                        init = encoder if start == "pcl" else None
                        _run(run, store, source, init, labelled, iterations, draw, lists, plan)
                    key = {"start": start, "labelled": labelled, "iterations": iterations}
                    with (run / "results.csv").open() as file:
                        rows += [{**key, "draw": draw, **row} for row in csv.DictReader(file)]
                    _write(out, rows, plan, len(test))
    _figure(out, rows, arguments.dataset)
    cases = [case.id for case in Store(store).cases if case.subject in test]
    for iterations in plan.iterations:
        runs = {start: out / f"{start}-m2-i{iterations}-d0" for start in STARTS}
        draw_predictions(
            out / f"predictions-m2-i{iterations}-d0.png",
            Store(store),
            cases[:3],
            {f"{start} start": run / "predictions" for start, run in runs.items()},
            title=f"{arguments.dataset}: 2 labelled subjects (draw 0), {iterations} iterations",
        )


def _run(
    run: Path,
    store: Path,
    source: Path,
    init: Path | None,
    labelled: int,
    iterations: int,
    draw: int,
    lists: dict[str, Path],
    plan: Plan,
) -> None:
    """One fine-tuning, its predictions and its results."""
    if not (run / "model.safetensors").is_file():
        if (run / "config.yaml").is_file():
            poscon.finetune(store, run, resume=True)
        else:
            poscon.finetune(
                store,
                run,
                init=init,
                labelled=labelled,
                cases=lists["train"],
                iterations=iterations,
                seed=draw,
                settings=plan.finetune,
            )
    poscon.predict(run, source, run / "predictions", cases=lists["test"], resume=True)
    poscon.evaluate(run / "predictions", source, run / "results.csv")


def _write(out: Path, rows: list[dict[str, object]], plan: Plan, n_test: int) -> None:
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS, *MEASURES], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        f"{n_test} test subjects, {len(DRAWS)} draws; mean ± standard deviation over test subjects",
        "",
        "| labelled subjects | iterations | Dice, random | Dice, PCL | difference | better in "
        "| HD95 mm, random | HD95 mm, PCL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for labelled in LABELLED:
        for iterations in plan.iterations:
            chosen = [
                row
                for row in rows
                if row["labelled"] == labelled and row["iterations"] == iterations
            ]
            if len({(row["start"], row["draw"]) for row in chosen}) < len(STARTS) * len(DRAWS):
                continue
            dice = {start: _per_subject(chosen, start, "dice") for start in STARTS}
            hd95 = {start: _per_subject(chosen, start, "hd95_mm") for start in STARTS}
            difference = dice["pcl"] - dice["random"]
            cells = [
                str(labelled),
                str(iterations),
                *(f"{dice[s].mean():.3f} ± {dice[s].std(ddof=1):.3f}" for s in STARTS),
                f"{difference.mean():+.3f}",
                f"{(difference > 0).sum()} of {len(difference)}",
                *(f"{hd95[s].mean():.1f} ± {hd95[s].std(ddof=1):.1f}" for s in STARTS),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    (out / "summary.md").write_text("\n".join(lines) + "\n")


def _figure(out: Path, rows: list[dict[str, object]], name: str) -> None:
    """Dice against the fine-tuning budget: a line of the mean a start, a dot a draw."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(LABELLED), sharey=True)
    for axis, labelled in zip(panels, LABELLED, strict=True):
        for start, colour, marker in zip(STARTS, ("#0072B2", "#D55E00"), "os", strict=True):
            means: dict[int, list[float]] = {}
            for row in rows:
                if row["start"] == start and row["labelled"] == labelled and row["dice"] != "":
                    means.setdefault(int(str(row["iterations"])), [])
            for iterations, values in means.items():
                for draw in DRAWS:
                    chosen = [
                        row
                        for row in rows
                        if row["labelled"] == labelled
                        and row["iterations"] == iterations
                        and row["draw"] == draw
                    ]
                    values.append(float(_per_subject(chosen, start, "dice").mean()))
            x = sorted(means)
            axis.plot(x, [np.mean(means[i]) for i in x], color=colour, label=f"{start} start")
            for i in x:
                axis.plot([i] * len(means[i]), means[i], marker, color=colour, alpha=0.6, ms=5)
        axis.set(xscale="log", xlabel="fine-tuning iterations")
        axis.set_title(f"{labelled} labelled subjects")
        axis.set_xticks(x, [str(i) for i in x])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("mean Dice of the test subjects")
    panels[0].legend(frameon=False)
    figure.suptitle(f"{name}: mean over draws (line), each draw (dots)", fontsize=11)
    figure.savefig(out / "budget.png", dpi=110)


def _per_subject(rows: list[dict[str, object]], start: str, measure: str) -> np.ndarray:
    """(subjects,): the mean over draws, frames and classes, subjects in alphabetical order."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["start"] == start and row[measure] != "":
            values.setdefault(str(row["subject"]), []).append(float(str(row[measure])))
    return np.array([np.mean(values[subject]) for subject in sorted(values)])


if __name__ == "__main__":
    main()
