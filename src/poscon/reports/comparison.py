"""The report of a comparison: leakage first, then protocol, results, pictures, cost."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poscon.comparison.compare import Comparison
from poscon.comparison.jobs import Job
from poscon.comparison.plan import Plan
from poscon.comparison.summary import Cell, Row, collect, summarise
from poscon.comparison.tables import (
    HOW_TO_READ,
    METRIC_NAMES,
    OVERLAPS,
    budget,
    cell_headings,
    optimistic_table,
    protocol_lines,
    results_table,
)
from poscon.comparison.work import COST
from poscon.files import read_json
from poscon.reports import figures
from poscon.reports.page import Picture, Section, Table, render, style, svg
from poscon.reports.parts import diagnostics, embedding_section, volume
from poscon.settings import leaves
from poscon.store.store import Store
from poscon.training.diagnostics import numbers
from poscon.training.run import PREDICTIONS, MetricsFile
from poscon.version import __version__

MINUTES = "minutes of training"
LEARNING = (
    ("loss", "training loss", "step"),
    ("validation_dice", "Dice of the test subjects", "step"),
    ("validation_dice", "Dice of the test subjects", MINUTES),
)
"""Figures of learning curves: a column of metrics.csv, its name, and the label of the x axis."""


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison, as HTML. It shows the runs that are done."""
    plan = comparison.plan
    rows = collect(comparison.schedule, comparison.place)
    cells = summarise(plan, comparison.schedule, comparison.place, rows)
    complete = [cell for cell in cells if cell.complete]
    with style():
        sections = [
            _leakage(comparison),
            _protocol(comparison),
            _results(comparison, cells),
            *([_against_labelled(comparison, cells)] if len(plan.amounts) > 1 and complete else []),
            *([_differences(comparison, cells)] if any(_compared(c) for c in cells) else []),
            *([_distributions(comparison, cells, rows)] if complete else []),
            *_flaws(cells),
            *_volumes(comparison, cells),
            *_learning(comparison),
            *_pretraining(comparison),
            _costs(comparison),
        ]
    return render(comparison.title, " ".join(plan.description.split()), sections)


def _leakage(comparison: Comparison) -> Section:
    text = [comparison.schedule.protocol]
    if comparison.plan.flaws.select_on_test:
        text.append(
            "The curve of every fine-tuning was watched on the test subjects. No model was chosen "
            "by it. A section below shows what that would have changed."
        )
    return Section("Leakage", text, alarm=comparison.schedule.transductive)


def _protocol(comparison: Comparison) -> Section:
    plan, schedule = comparison.plan, comparison.schedule
    done = sum(comparison.place.is_done(job) for job in schedule.jobs)
    text = protocol_lines(plan, schedule)[1:]
    if done < len(schedule.jobs):
        text.append(f"Not finished: {done} of {len(schedule.jobs)} runs are done.")
    facts: list[tuple[str, str]] = [("setting", plan.setting)]
    stores = [("fine-tuning and test data", comparison.place.store, plan.data)]
    if comparison.place.source is not None and plan.pretrain_data is not None:
        stores.insert(0, ("pre-training data", comparison.place.source, plan.pretrain_data))
    for what, path, data in stores:
        store = Store(path)
        subjects = len({case.subject for case in store.cases})
        name = "built-in phantoms" if data.folder is None else Path(str(data.folder)).name
        facts.append(
            (
                what,
                f"{name}: {len(store.cases)} cases of {subjects} subjects, "
                f"layout {store.manifest.layout}, classes {', '.join(store.class_names)}",
            )
        )
        facts += [("", note) for note in store.manifest.notes]
    in_all = "" if plan.rounds is None else " (the totals of the rounds)"
    facts += [
        (
            "subjects per fold (train + test)",
            ", ".join(f"{len(f.train)} + {len(f.test)}" for f in schedule.folds),
        ),
        (f"labelled {plan.unit}", ", ".join(map(str, plan.amounts)) + in_all),
    ]
    if "nsd" in plan.metrics:
        facts.append(("tolerance of NSD", f"{plan.nsd_tolerance_mm:g} mm"))
    facts.append(("poscon", __version__))
    trainings: dict[str, dict[str, None]] = defaultdict(dict)
    for job in schedule.jobs:
        name = job.finetuning or job.pretraining
        optimiser = job.settings["optimiser"]
        training = f"{_method(plan, job)}, {budget(job)}, {optimiser['name']}, "
        training += f"learning rate {optimiser['lr']:g}"
        trainings[f"{job.command} {name}"][training] = None
    facts += [(name, "; ".join(texts)) for name, texts in trainings.items()]
    return Section("What was done", text, tables=[Table(("", ""), facts)])


def _method(plan: Plan, job: Job) -> str:
    """The method of a training, with the settings that are its entry's own."""
    entries = plan.pretraining if job.finetuning is None else plan.finetuning
    entry = next(e for e in entries if e.name == (job.finetuning or job.pretraining))
    own = ", ".join(f"{key}={value}" for key, value in leaves(entry.settings))
    return f"{entry.method} ({own})" if own else entry.method


def _results(comparison: Comparison, cells: Sequence[Cell]) -> Section:
    return Section("Results", tables=[Table(*results_table(comparison.plan, cells), HOW_TO_READ)])


def _against_labelled(comparison: Comparison, cells: Sequence[Cell]) -> Section:
    pictures, plan = [], comparison.plan
    inits = [entry.name for entry in plan.pretraining]
    strategies = [strategy.label for strategy in plan.slice_strategies]
    for metric in plan.metrics:
        for entry in plan.finetuning:
            chosen = [cell for cell in cells if cell.row.split(" | ")[1] == entry.name]
            if any(cell.complete for cell in chosen):
                figure = figures.against_labelled(chosen, metric, entry.name, inits, strategies)
                says = f"{METRIC_NAMES[metric]} against labelled {plan.unit}, {entry.name}"
                pictures.append(Picture(svg(figure, f"labelled-{metric}-{entry.name}"), says))
    return Section("More labels", ["The bars are 95 % intervals over subjects."], pictures)


def _compared(cell: Cell) -> bool:
    return cell.complete and any(found is not None for found in cell.against.values())


def _differences(comparison: Comparison, cells: Sequence[Cell]) -> Section:
    metric, baseline = comparison.plan.metrics[0], comparison.plan.baseline_row
    pictures = []
    for labelled in comparison.plan.amounts:
        chosen = [cell for cell in cells if cell.labelled == labelled]
        if any(_compared(cell) for cell in chosen):
            title = f"{labelled} labelled {comparison.plan.unit}"
            figure = figures.paired_differences(chosen, metric, title, baseline)
            says = f"paired differences to {baseline}, {title}"
            pictures.append(Picture(svg(figure, f"difference-{labelled}"), says))
    text = [
        "Differences are paired by subject. The bars are 95 % intervals over subjects. Each tick "
        "is the mean of one training (a fold and a draw). A filled point is distinguishable from "
        "0."
    ]
    same = list(dict.fromkeys(cell.row for cell in cells if cell.same_as_baseline))
    if same:
        text.append(
            f"Where {', '.join(same)} has the same runs as the baseline, there is no difference to "
            "draw."
        )
    return Section("Differences", text, pictures)


def _distributions(
    comparison: Comparison, cells: Sequence[Cell], rows: Mapping[str, Sequence[Row]]
) -> Section:
    metric = comparison.plan.metrics[0]
    pictures = []
    for labelled in comparison.plan.amounts:
        chosen = [cell for cell in cells if cell.labelled == labelled]
        if any(cell.complete for cell in chosen):
            title = f"{labelled} labelled {comparison.plan.unit}"
            figure = figures.distributions(chosen, metric, title)
            pictures.append(Picture(svg(figure, f"subjects-{labelled}"), f"subjects, {title}"))
    classes: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for job in comparison.schedule.finetunings:
        for row in rows.get(job.name, ()):
            if row[metric] != "":
                key = job.row, int(job.labelled or 0), row["class"]
                classes[key].append(float(row[metric]))
    names = list(dict.fromkeys(name for _, _, name in classes))
    lines = [
        [
            str(cell.labelled),
            *cell.row.split(" | "),
            *(_mean_std(classes[cell.row, cell.labelled, name]) for name in names),
        ]
        for cell in cells
        if cell.complete
    ]
    note = f"{METRIC_NAMES[metric]} of each class: mean ± standard deviation over cases and runs."
    return Section(
        "Subjects and classes",
        pictures=pictures,
        tables=[Table([*cell_headings(comparison.plan.baseline_row), *names], lines, note)],
    )


def _mean_std(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""


def _flaws(cells: Sequence[Cell]) -> list[Section]:
    optimistic = [cell for cell in cells if cell.optimistic is not None]
    if not optimistic:
        return []
    text, head, lines = optimistic_table(optimistic)
    return [Section("What flawed reporting would have said", [text], tables=[Table(head, lines)])]


def _volumes(comparison: Comparison, cells: Sequence[Cell]) -> list[Section]:
    """The best, median and worst subject with the most labels, for PCL or else another method."""
    schedule, place = comparison.schedule, comparison.place
    metric = comparison.plan.metrics[0]
    complete = [cell for cell in cells if cell.complete]
    if not complete:
        return []
    most = max(cell.labelled for cell in complete)
    chosen = [cell for cell in complete if cell.labelled == most]
    ours = {entry.name for entry in comparison.plan.pretraining if entry.method == "pcl"}
    cell = min(
        chosen,
        key=lambda c: (c.row.split(" | ")[0] not in ours, c.row == comparison.plan.baseline_row),
    )
    values = cell.measures[metric].subjects
    ranked = sorted(values, key=lambda s: values[s], reverse=metric in OVERLAPS)
    store = Store(place.store)
    volumes = []
    for what, subject in (
        ("best", ranked[0]),
        ("median", ranked[len(ranked) // 2]),
        ("worst", ranked[-1]),
    ):
        case = next(c for c in store.cases if c.subject == subject and c.labelled)
        job = next(
            j
            for j in schedule.finetunings
            if (j.row, j.labelled, j.draw) == (cell.row, cell.labelled, 0)
            and case.id in j.cases["test"]
        )
        title = f"{what}: {case.id}, {METRIC_NAMES[metric]} {values[subject]:.3f}"
        volumes.append(volume(store, case, place.run(job.name) / PREDICTIONS, title))
    text = [
        f"These subjects are from {cell.row} with {most} labelled {comparison.plan.unit}. They are "
        "ranked by the mean over their draws. The pictures show the first draw."
    ]
    return [Section("Best, median and worst subject", text, slices=volumes)]


def _learning(comparison: Comparison) -> list[Section]:
    """The mean loss of fine-tuning over runs; where it was watched, the mean Dice twice.

    The Dice is drawn against steps and against minutes.
    """
    plan, pictures = comparison.plan, []
    names = [figures.short(row, plan.rows) for row in plan.rows]
    for labelled in plan.amounts:
        title = f"{labelled} labelled {plan.unit}"
        for column, what, xlabel in LEARNING:
            lines = {
                name: (minutes if xlabel == MINUTES else steps, values)
                for name, (steps, minutes, values) in _means(comparison, labelled, column).items()
            }
            if lines:
                figure = figures.curves(
                    lines, title, xlabel, what, of=names, whole=xlabel != MINUTES
                )
                drawn = svg(figure, f"learning-{column}-{xlabel}-{labelled}")
                pictures.append(Picture(drawn, f"{what} by {xlabel}, {title}"))
    if not pictures:
        return []
    text = [
        "The curves are means over folds and draws. Losses of different methods cannot be "
        "compared. Minutes are those of the steps alone, on the machines that did them. Trainings "
        "that share a machine slow each other down."
    ]
    if any(job.also for job in comparison.schedule.jobs):
        text.append("Rows with the same runs have the same curve, and only the last one is seen.")
    return [Section("Learning curves of fine-tuning", text, pictures)]


def _means(comparison: Comparison, labelled: int, column: str) -> dict[str, np.ndarray]:
    """A column of metrics.csv, by row of the plan.

    Returns:
        (3, points) by the row's short name: steps, minutes, and the column. All are means over the
        runs that are done and have the column.
    """
    place, rows = comparison.place, comparison.plan.rows
    found: dict[str, dict[float, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for job in comparison.schedule.finetunings:
        if job.labelled == labelled and place.is_done(job):
            states = numbers(MetricsFile(place.run(job.name) / "metrics.csv").rows())
            minutes = training_minutes(states, job.settings["batch"])
            for state, spent in zip(states, minutes, strict=True):
                if column in state:
                    point = state["step"], spent, state[column]
                    found[figures.short(job.row, rows)][state["step"]].append(point)
    return {
        name: np.array([np.mean(points, axis=0) for points in of_step.values()]).T
        for name, of_step in found.items()
    }


def training_minutes(rows: Sequence[Mapping[str, float]], batch: int) -> np.ndarray:
    """The minutes that the steps of a training took up to each row of metrics.csv.

    They follow from the slices per second of the rows. So a look at validation cases does not
    count, nor does a pause before the run was resumed.

    Args:
        rows: the rows of metrics.csv, from the first step on.
        batch: labelled slices per step.

    Returns:
        (rows,) float64.
    """
    steps = np.diff([row["step"] for row in rows], prepend=0.0)
    rates = np.array([row["slices_per_second"] for row in rows])
    return np.cumsum(steps * batch / rates) / 60


def _pretraining(comparison: Comparison) -> list[Section]:
    """The diagnostics, similarity and map of the pre-trainings of the first fold."""
    place, schedule = comparison.place, comparison.schedule
    runs = {
        job.pretraining: job
        for job in reversed(schedule.jobs)
        if job.command == "pretrain" and place.is_done(job) and job.fold in (None, 0)
    }
    names = [entry.name for entry in comparison.plan.pretraining if entry.name in runs]
    if not names:
        return []
    inits = [entry.name for entry in comparison.plan.pretraining]
    store = Store(place.store)
    unseen = [c for c in store.cases if c.subject in schedule.folds[0].test and c.labelled]
    metrics = {
        n: numbers(MetricsFile(place.run(runs[n].name) / "metrics.csv").rows()) for n in names
    }
    encoders = {n: (place.run(runs[n].name), int(runs[n].settings["size"])) for n in names}
    positions = {n: runs[n].settings["position"] for n in names}
    whose = "test subjects of the first fold"
    return [
        Section(
            "Pre-training",
            ["These are the runs of the first fold."],
            diagnostics(metrics, inits, positions),
        ),
        embedding_section(encoders, store, unseen, whose),
    ]


def _costs(comparison: Comparison) -> Section:
    place = comparison.place
    costs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in comparison.schedule.jobs:
        path = place.run(job.name) / COST
        if path.is_file():
            for stage, cost in read_json(path).items():
                training = f"{job.command} {job.finetuning or job.pretraining}"
                costs[training if stage == "train" else stage].append(cost)
    lines = []
    for name, of_kind in costs.items():
        seconds = [cost["seconds"] for cost in of_kind]
        gpu = [cost["gpu_memory_mib"] for cost in of_kind if "gpu_memory_mib" in cost]
        lines.append(
            [
                name,
                str(len(of_kind)),
                f"{np.mean(seconds):.0f}",
                f"{sum(seconds) / 3600:.2f}",
                f"{max(cost['memory_mib'] for cost in of_kind)}",
                f"{max(gpu)}" if gpu else "",
            ]
        )
    head = ["stage", "runs", "seconds per run", "hours in total", "memory, MiB", "GPU memory, MiB"]
    note = (
        "Where a run was interrupted, this is its last attempt. Memory is the peak of the process."
    )
    return Section("Cost", tables=[Table(head, lines, note)])
