"""Every method of the comparison under one budget: Dice and HD95 of a few labelled subjects.

    python experiments/comparison.py DATASET SOURCE OUT --table TABLE [--results FILE]
        [--part I/N] [--starts NAME,...] [--methods NAME,...] [--iterations N]

DATASET is ``hippocampus`` (Decathlon Task04_Hippocampus), ``acdc`` (with its split.json beside
``training/``) or ``acdc-full`` (the same at 256 x 256, for a GPU), SOURCE its folder. TABLE is one
of

    pretraining   every start, then supervised fine-tuning; 2 and 6 labelled subjects
    finetuning    every fine-tuning method, from a random start and from PCL; 2 and 6 labelled
                  subjects
    budget        every start; 1, 2 and 4 labelled subjects; Dice along one long fine-tuning (with
                  1 subject half as long)
    standard      ACDC only: the first 3 and 7 training patients of split.json, as the literature
                  draws them; from a random start and from PCL
    encoders      no fine-tuning: the diagnostics of every pre-training at its end

Stores and runs go to OUT. FILE (default OUT/results.csv, of budgets OUT/budget.csv) has a row a run
and test subject; a run that is in it is not done again, so that the script may be stopped and
started at will, and several processes may each do a part of the runs (I of N, from 0) into the same
FILE. At the end the table is printed, as far as FILE has its runs; ``--show`` does only that.

Protocol: pre-training sees the training subjects only, every method the same number of slices. Draw
d takes the first M subjects of the order of seed d, for all methods alike (draw -1, of the table
``standard``, the first of the split's list), and d is the seed of the fine-tuning too. The model is
the averaged weights at the end of the training. Of a prediction only the largest structure is kept.
A subject's figure is the mean over its frames and classes; a table's are mean and standard
deviation over the test subjects, of the mean over draws; intervals and p-values of differences to
the baseline are those of :mod:`poscon.statistics` over subjects, adjusted over the rows of a number
of labelled subjects. All trainings are in bfloat16 mixed precision.

The table of budgets is along one training: fine-tuning is at a constant rate, so that its state
after n steps is what a training of n steps would give, except for the length of the warm-up. There
the figure is the mean over all test cases (of hippocampus, of the first 20 test subjects) and
classes, on the store's grid, of everything that is predicted. A second table tells how much would
be gained by choosing the best checkpoint of each curve, which is of the very cases that are
reported.
"""

import argparse
import csv
import fcntl
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import poscon
from poscon.finetuning import METHODS as FINETUNINGS
from poscon.pretext import METHODS as STARTS
from poscon.statistics import differences
from poscon.store.manifest import MANIFEST
from poscon.store.store import Store

TABLES = ("pretraining", "finetuning", "budget", "standard", "encoders")
DRAWS = (0, 1, 2)
STANDARD = -1
"""In place of the number of a draw: the order of the literature."""
BUDGET_SUBJECTS = 20
SPLIT_SEED = 2026
MEASURES = ("dice", "hd95_mm")
BASELINE = "random | supervised"
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
    "#000000",
)
MARKERS = "osD^vPpX"


@dataclass(frozen=True)
class Plan:
    """One data set's budget.

    Attributes:
        prepare: arguments of ``poscon prepare``.
        size: pixels of what the network sees.
        epochs: of pre-training.
        iterations: of fine-tuning, for the tables of methods.
        budget: of fine-tuning, for the table of budgets.
        step: of the table of budgets, in iterations.
        network: settings of the network, and
        batch: slices a step of fine-tuning.
    """

    prepare: dict[str, str | float]
    size: int
    epochs: int
    iterations: int
    budget: int
    step: int
    network: tuple[str, ...] = ()
    batch: int = 8


PLANS = {
    "hippocampus": Plan({"plane": "coronal"}, 48, 10, 800, 1600, 100),
    "acdc": Plan({"spacing": 2.0}, 64, 30, 800, 1600, 200),
    "acdc-full": Plan(
        {"spacing": 1.25}, 256, 200, 2000, 4000, 500, network=("network.width=32",), batch=16
    ),
}


@dataclass(frozen=True, order=True)
class Run:
    """What a fine-tuning is determined by, within a data set."""

    start: str
    method: str
    labelled: int
    iterations: int
    draw: int

    @property
    def name(self) -> str:
        return f"{self.start}-{self.method}-m{self.labelled}-i{self.iterations}-d{self.draw}"


def runs_of(table: str, plan: Plan) -> list[Run]:
    """The runs of a table, every draw complete before the next begins."""
    if table == "pretraining":
        cells = [(s, "supervised", m, plan.iterations) for m in (2, 6) for s in reversed(STARTS)]
    elif table == "finetuning":
        cells = [
            (s, method, m, plan.iterations)
            for s in ("random", "pcl")
            for m in (2, 6)
            for method in FINETUNINGS
        ]
    elif table == "standard":
        cells = [(s, "supervised", m, plan.budget) for m in (3, 7) for s in ("random", "pcl")]
        return [Run(*cell, draw=STANDARD) for cell in cells]
    else:
        lengths = {2: plan.budget, 1: plan.budget // 2, 4: plan.budget}
        cells = [(s, "supervised", m, n) for m, n in lengths.items() for s in STARTS]
    return [Run(*cell, draw) for draw in DRAWS for cell in cells]


def split(name: str, source: Path, store: Store) -> tuple[list[str], list[str]]:
    """Training and test subjects."""
    if name.startswith("acdc"):
        content = json.loads((source / "split.json").read_text())
        return content["train"], content["validation"]
    subjects = sorted({case.subject for case in store.cases})
    order = np.random.default_rng(SPLIT_SEED).permutation(len(subjects))
    shuffled = [subjects[i] for i in order]
    return shuffled[52:], shuffled[:52]


def pretrain_once(store: Path, run: Path, **how: Any) -> None:
    """Pre-train, or go on where it was interrupted, unless it is done."""
    if not (run / "encoder.safetensors").is_file():
        started = (run / "config.yaml").is_file()
        poscon.pretrain(store, run, **({"resume": True} if started else how))


def finetune_once(store: Path, run: Path, **how: Any) -> None:
    """Fine-tune, or go on where it was interrupted, unless it is done."""
    if not (run / "model.safetensors").is_file():
        started = (run / "config.yaml").is_file()
        poscon.finetune(store, run, **({"resume": True} if started else how))


class Ledger:
    """The file of results; several processes may write to it.

    Attributes:
        rows: measures by run and subject.
    """

    def __init__(self, path: Path, measures: Sequence[str]) -> None:
        self.path, self.measures = path, measures
        self.rows: dict[tuple[Run, str], dict[str, float]] = {}
        self.read()

    def read(self) -> None:
        if not self.path.is_file():
            return
        with self.path.open(newline="") as file:
            for row in csv.DictReader(file):
                run = Run(
                    row["start"],
                    row["method"],
                    *(int(row[k]) for k in ("labelled", "iterations", "draw")),
                )
                self.rows[run, row["subject"]] = {m: float(row[m]) for m in self.measures}

    def __contains__(self, run: Run) -> bool:
        return any(key == run for key, _ in self.rows)

    def add(self, found: dict[tuple[Run, str], dict[str, float]]) -> None:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.read()
            self.rows |= found
            part = self.path.with_suffix(".part")
            with part.open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([*(f.name for f in fields(Run)), "subject", *self.measures])
                for key, subject in sorted(self.rows):
                    values = self.rows[key, subject]
                    shown = [f"{values[m]:.4f}" for m in self.measures]
                    writer.writerow([*astuple(key), subject, *shown])
            part.replace(self.path)

    def per_subject(self, runs: Sequence[Run], measure: str) -> dict[str, float]:
        """By subject, the mean over runs."""
        subjects = sorted({subject for run, subject in self.rows if run == runs[0]})
        return {
            subject: float(np.mean([self.rows[run, subject][measure] for run in runs]))
            for subject in subjects
        }


class Experiment:
    """One data set: its store, its lists of subjects, its runs."""

    def __init__(self, name: str, source: Path, out: Path) -> None:
        self.plan, self.source, self.out = PLANS[name], source, out
        self.architecture = [f"size={self.plan.size}", *self.plan.network]
        self.settings = [*self.architecture, "precision=bf16"]
        self.finetuning = [*self.settings, f"batch={self.plan.batch}"]
        self.store = out / "store"
        if not (self.store / MANIFEST).is_file():
            poscon.prepare(source, self.store, **self.plan.prepare)  # type: ignore[arg-type]
        train, test = split(name, source, Store(self.store))
        self.lists = {}
        for stem, subjects in (("train", train), ("test", test), ("few", test[:BUDGET_SUBJECTS])):
            self.lists[stem] = out / f"{stem}.json"
            self.lists[stem].write_text(json.dumps(subjects))

    def pretrain(self, method: str) -> Path:
        run = self.out / f"pretrain-{method}"
        pretrain_once(
            self.store,
            run,
            method=method,
            cases=self.lists["train"],
            # all others would have no effect
            epochs=None if method == "random" else self.plan.epochs,
            settings=self.architecture if method == "random" else self.settings,
        )
        return run

    def _finetune(self, run: Run, folder: Path, **how: Any) -> None:
        cases, seed = self.lists["train"], run.draw
        if run.draw == STANDARD:
            cases, seed = self.out / f"first-{run.labelled}.json", 0
            train = json.loads(self.lists["train"].read_text())
            cases.write_text(json.dumps(train[: run.labelled]))
        finetune_once(
            self.store,
            folder,
            # a random start is drawn anew for every draw
            init=None if run.start == "random" else self.pretrain(run.start),
            labelled=run.labelled,
            cases=cases,
            method=run.method,
            iterations=run.iterations,
            seed=seed,
            **how,
        )

    def along(self, run: Run) -> dict[tuple[Run, str], dict[str, float]]:
        """Fine-tune with an eye on the test cases: a run of every length up to this one's."""
        folder = self.out / f"budget-{run.name}"
        settings = [*self.finetuning, f"checkpoint_every={self.plan.step}"]
        self._finetune(run, folder, validation=self.lists["few"], settings=settings)
        with (folder / "metrics.csv").open(newline="") as file:
            return {
                (replace(run, iterations=int(row["step"])), "all"): {
                    "dice": float(row["validation_dice"])
                }
                for row in csv.DictReader(file)
            }

    def finetune(self, run: Run) -> dict[tuple[Run, str], dict[str, float]]:
        """Fine-tune, predict the test subjects, measure them."""
        folder = self.out / run.name
        self._finetune(run, folder, settings=[*self.finetuning, "keep_largest_component=true"])
        predictions = folder / "predictions"
        poscon.predict(folder, self.source, predictions, cases=self.lists["test"], resume=True)
        if not (folder / "results.csv").is_file():
            poscon.evaluate(predictions, self.source, folder / "results.csv")
        found: dict[str, dict[str, list[float]]] = {}
        with (folder / "results.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for measure in MEASURES:
                    if row[measure] != "":
                        values = found.setdefault(row["subject"], {m: [] for m in MEASURES})
                        values[measure].append(float(row[measure]))
        return {
            (run, subject): {m: float(np.mean(values[m])) for m in MEASURES}
            for subject, values in found.items()
        }


def table_of_methods(ledger: Ledger, runs: Iterable[Run]) -> str:
    """Markdown: by number of labelled subjects, a row a start and method that is complete."""
    cells: dict[int, dict[str, list[Run]]] = {}
    for run in runs:
        row = f"{run.start} | {run.method}"
        cells.setdefault(run.labelled, {}).setdefault(row, []).append(run)
    lines = [
        "| M | start | fine-tuning | Dice | HD95 mm | against random, supervised [95 %] | p |"
        " subjects, draws better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m, rows in sorted(cells.items()):
        rows = {row: own for row, own in rows.items() if all(run in ledger for run in own)}
        dice = {row: ledger.per_subject(own, "dice") for row, own in rows.items()}
        base = dice.pop(BASELINE, None)
        against = differences(base, dice) if base is not None else {}
        for row, own in rows.items():
            measured = [ledger.per_subject(own, k) for k in MEASURES]
            (dice_, hd95) = (np.array(list(values.values())) for values in measured)
            texts = [f"{dice_.mean():.3f} ± {dice_.std(ddof=1):.3f}"]
            texts += [f"{hd95.mean():.1f} ± {hd95.std(ddof=1):.1f}", "", "", ""]
            if row in against:
                found = against[row]
                ahead = sum(
                    _mean(ledger, ours) > _mean(ledger, theirs)
                    for ours, theirs in zip(own, rows[BASELINE], strict=True)
                )
                texts[2] = (
                    f"{found.mean:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}]"
                )
                texts[3] = f"{found.p:.2g}"
                texts[4] = f"{found.wins} of {found.subjects}, {ahead} of {len(own)}"
            lines.append(f"| {m} | {row} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def table_of_encoders(experiment: Experiment) -> str:
    """Markdown: a row a pre-training method, from the last row of its metrics.csv."""
    columns = ("learnt", "retrieval_error", "alignment", "uniformity", "effective_rank")
    lines = [
        f"| method | {' | '.join(columns)} |".replace("_", " "),
        "|---|" + "---|" * len(columns),
    ]
    chance = ""
    for method in reversed(STARTS):
        with (experiment.pretrain(method) / "metrics.csv").open(newline="") as file:
            row = list(csv.DictReader(file))[-1]
        cells = [f"{float(row[c]):.3f}" if row.get(c) else "" for c in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
        chance = f"\n\nretrieval error of a random slice: {float(row['retrieval_chance']):.3f}"
    return "\n".join(lines) + chance


def _mean(ledger: Ledger, run: Run) -> float:
    return float(np.mean(list(ledger.per_subject([run], "dice").values())))


def budget_curves(
    ledger: Ledger, runs: Sequence[Run]
) -> dict[int, tuple[int, dict[str, dict[int, float]]]]:
    """By number of labelled subjects: how many draws, and by start and budget the mean Dice.

    Only the draws of which every run is there count, so that all points are of the same subjects.
    """
    curves = {}
    for m in sorted({run.labelled for run in runs}):
        own = [run for run in runs if run.labelled == m]
        draws = [d for d in DRAWS if all(run in ledger for run in own if run.draw == d)]
        means: dict[str, dict[int, float]] = {}
        for start in dict.fromkeys(run.start for run in own):
            found: dict[int, list[float]] = {}
            for (run, _), values in sorted(ledger.rows.items()):
                if (run.start, run.labelled) == (start, m) and run.draw in draws:
                    found.setdefault(run.iterations, []).append(values["dice"])
            means[start] = {budget: float(np.mean(v)) for budget, v in found.items()}
        if draws:
            curves[m] = (len(draws), means)
    return curves


def budget_figure(ledger: Ledger, runs: Sequence[Run], title: str, path: Path) -> None:
    """Dice against the length of fine-tuning: a panel a number of subjects, a line a start."""
    curves = budget_curves(ledger, runs)
    if not curves:
        return
    figure = Figure(figsize=(3.4 * len(curves) + 1.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    styles = dict(zip(STARTS, zip(COLOURS, MARKERS, strict=True), strict=True))
    for axis, (m, (n_draws, means)) in zip(panels, curves.items(), strict=True):
        for start, by_budget in means.items():
            colour, marker = styles[start]
            x, y = list(by_budget), list(by_budget.values())
            axis.plot(x, y, color=colour, marker=marker, ms=5, label=start)
        ticks = [x[0] * 2**k for k in range(10) if x[0] * 2**k <= x[-1]]
        axis.set(xscale="log", xlabel="fine-tuning iterations")
        axis.set_title(f"{m} labelled, {n_draws} draw{'s' * (n_draws > 1)}", fontsize=10)
        axis.set_xticks(ticks, [str(budget) for budget in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("mean Dice of the test cases")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)


def budget_table(ledger: Ledger, runs: Sequence[Run]) -> str:
    """Markdown: mean Dice, a row a number of subjects and start, a column a budget."""
    curves = budget_curves(ledger, runs)
    known = sorted({b for _, means in curves.values() for row in means.values() for b in row})
    budgets = [b for b in known if b in [known[0] * 2**k for k in range(10)]]
    lines = [
        "| labelled | draws | start | " + " | ".join(f"{b} iterations" for b in budgets) + " |",
        "|---|---|---|" + "---|" * len(budgets),
    ]
    for m, (n_draws, means) in curves.items():
        for start, by_budget in means.items():
            cells = " | ".join(f"{by_budget[b]:.3f}" if b in by_budget else "" for b in budgets)
            lines.append(f"| {m} | {n_draws} | {start} | {cells} |")
    return "\n".join(lines)


def selection_table(ledger: Ledger, runs: Sequence[Run]) -> str:
    """Markdown: what choosing the checkpoint by the test cases would gain."""
    lines = ["| labelled | start | last | best | gained | best at |", "|---|---|---|---|---|---|"]
    gained = []
    for m, (_, means) in budget_curves(ledger, runs).items():
        for start, by_budget in means.items():
            best, last = max(by_budget, key=by_budget.__getitem__), max(by_budget)
            gained.append(by_budget[best] - by_budget[last])
            lines.append(
                f"| {m} | {start} | {by_budget[last]:.3f} | {by_budget[best]:.3f} | "
                f"{gained[-1]:+.3f} | {best} |"
            )
    return "\n".join([*lines, f"\nmean gain {np.mean(gained):+.4f}, most {max(gained):+.4f}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=PLANS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--starts", help="only these, separated by commas")
    parser.add_argument("--methods", help="only these fine-tunings, separated by commas")
    parser.add_argument("--iterations", type=int, help="of fine-tuning, instead of the plan's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.table == "encoders":
        experiment = Experiment(arguments.dataset, arguments.source, arguments.out)
        print(table_of_encoders(experiment))
        return
    along = arguments.table == "budget"
    default = arguments.out / ("budget.csv" if along else "results.csv")
    ledger = Ledger(arguments.results or default, ("dice",) if along else MEASURES)
    starts = arguments.starts.split(",") if arguments.starts else STARTS
    plan = PLANS[arguments.dataset]
    if arguments.iterations is not None:
        plan = replace(plan, **{"budget" if along else "iterations": arguments.iterations})
    methods = arguments.methods.split(",") if arguments.methods else FINETUNINGS
    runs = [
        run
        for run in runs_of(arguments.table, plan)
        if run.start in starts and run.method in methods
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.show:
        experiment = Experiment(arguments.dataset, arguments.source, arguments.out)
        number, parts = map(int, arguments.part.split("/"))
        for run in runs[number::parts]:
            ledger.read()
            if run not in ledger:
                ledger.add(experiment.along(run) if along else experiment.finetune(run))
    if along:
        print(budget_table(ledger, runs))
        print("\nIf the checkpoint were chosen by the test cases:\n")
        print(selection_table(ledger, runs))
        budget_figure(ledger, runs, arguments.dataset, arguments.out / "budget.png")
    else:
        print(table_of_methods(ledger, runs))


if __name__ == "__main__":
    main()
