"""The results of the runs of a plan: their rows, and statistics over subjects."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from poscon.comparison.jobs import Job, Schedule
from poscon.comparison.plan import Plan
from poscon.comparison.work import ComparisonFolder
from poscon.errors import PosconError
from poscon.files import read_csv
from poscon.statistics import Difference, Interval, differences, mean_interval
from poscon.training.diagnostics import numbers
from poscon.training.run import RESULTS, MetricsFile

Row = dict[str, str]
"""One class of one case of one run, as in results.csv."""

Training = tuple[int, int]
"""Fold and draw."""


@dataclass(frozen=True)
class Measure:
    """A metric in a cell, over the test subjects of all folds.

    Attributes:
        mean, std: mean and standard deviation (n - 1) over subjects. The value of a subject is its
            mean over classes, cases and draws.
        interval: 95 % interval of the mean over subjects.
        subjects: value of each subject.
        trainings: by fold and draw, the value of each subject that was tested in it.
    """

    mean: float
    std: float
    interval: Interval
    subjects: Mapping[str, float]
    trainings: Mapping[Training, Mapping[str, float]]

    @property
    def draws(self) -> tuple[float, ...]:
        """The mean over the subjects of all folds, for each draw."""
        of_draw: dict[int, list[float]] = defaultdict(list)
        for (_, draw), subjects in self.trainings.items():
            of_draw[draw] += subjects.values()
        return tuple(float(np.mean(of_draw[draw])) for draw in sorted(of_draw) if of_draw[draw])


@dataclass(frozen=True)
class OptimisticDice:
    """The Dice that flawed protocols would have reported for the same runs.

    Attributes:
        last: Dice at the last checkpoint, on the store's grid; None where it was not watched.
        best: Dice at the checkpoint that is best on the test subjects; None where ``last`` is None.
        pooled: Dice of the voxels of all test subjects together; None where the plan does not ask.
    """

    last: float | None
    best: float | None
    pooled: float | None


@dataclass(frozen=True)
class Cell:
    """The results of an initialisation and a fine-tuning with a number of labels.

    Attributes:
        row: ``INIT | FINE-TUNING``, with the strategy behind it if slices are labelled.
        labelled: number of labelled subjects, or of labelled slices.
        runs, wanted: number of runs that are done, and of all runs.
        measures: measures by metric; empty until all runs are done, and if no subject could be
            measured.
        against: difference to the baseline by metric; None for the baseline itself.
        baseline: whether it is the baseline.
        same_as_baseline: whether it is another row with the very same runs.
        optimistic: see :class:`OptimisticDice`; None if the plan does not ask.
    """

    row: str
    labelled: int
    runs: int
    wanted: int
    measures: Mapping[str, Measure]
    against: Mapping[str, Difference | None]
    baseline: bool = False
    same_as_baseline: bool = False
    optimistic: OptimisticDice | None = None

    @property
    def complete(self) -> bool:
        """Whether all runs are done and a subject was measured."""
        return bool(self.measures)


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file of results.

    Raises:
        PosconError: the file is damaged.
    """
    rows = read_csv(path, ("subject", "case", "class", "dice"))
    if not rows:
        raise PosconError(f"{path}: damaged (it has no row); remove it")
    return rows


def check_measured(plan: Plan, schedule: Schedule, place: ComparisonFolder) -> None:
    """Refuse runs that are done and lack a metric of the plan, or have NSD at another tolerance.

    Raises:
        PosconError: there is such a run.
    """
    for job in schedule.jobs:
        if job.command != "finetune" or not place.is_done(job):
            continue
        path = place.run(job.name) / RESULTS
        first, *_ = read_rows(path)
        lacking = [metric for metric in plan.metrics if metric not in first]
        tolerance = float(first.get("nsd_tolerance_mm") or plan.nsd_tolerance_mm)
        what = f"no {lacking[0]}" if lacking else f"NSD at {tolerance:g} mm"
        if lacking or tolerance != plan.nsd_tolerance_mm:
            raise PosconError(
                f"{path}: is not what the plan measures ({what}); remove this file in every run "
                "that is done, and run poscon compare again, which measures anew"
            )


def collect(schedule: Schedule, place: ComparisonFolder) -> dict[str, list[Row]]:
    """The rows of every finished fine-tuning by its name, with its fold, its draw and its name."""
    found: dict[str, list[Row]] = {}
    for job in schedule.jobs:
        if job.command == "finetune" and place.is_done(job):
            of_training = {"fold": str(job.fold), "draw": str(job.draw)}
            own = read_rows(place.run(job.name) / RESULTS)
            found[job.name] = [{**of_training, **row, "run": job.name} for row in own]
    return found


def result_rows(schedule: Schedule, rows: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """The rows of results.csv, which say what the run was.

    Those of a run that several strategies share are there for each of them.
    """
    for job in schedule.finetunings:
        amount = {"labelled": str(job.labelled)}
        if job.strategy is not None:
            amount = {"labelled_slices": str(job.labelled), "strategy": job.strategy}
        about = {"pretraining": job.pretraining, "finetuning": str(job.finetuning), **amount}
        for row in rows.get(job.name, ()):
            yield {**about, **row}


def results_csv(rows: Iterable[Row]) -> str:
    """The text of results.csv, one line per patient, class and run."""
    every = list(rows)
    text = io.StringIO()
    # runs that an earlier version measured may lack a column
    columns = list(dict.fromkeys(name for row in every for name in row)) or ["run"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    return text.getvalue()


def summarise(
    plan: Plan, schedule: Schedule, place: ComparisonFolder, rows: Mapping[str, Sequence[Row]]
) -> list[Cell]:
    """Make every cell, with statistics where all of its runs are done.

    Statistics are over subjects. The folds test each subject once, so all of them can be pooled.
    """
    jobs: dict[tuple[int, str], list[Job]] = defaultdict(list)
    for job in schedule.finetunings:
        jobs[int(job.labelled or 0), job.row].append(job)
    done = {
        key: measures
        for key, of_cell in jobs.items()
        if all(job.name in rows for job in of_cell)
        and (measures := measures_of(plan, [row for job in of_cell for row in rows[job.name]]))
    }
    twins = {labelled: _twins(plan, jobs, labelled) for labelled in plan.amounts}
    against = {
        (labelled, metric): _against(plan, done, twins[labelled], labelled, metric)
        for labelled in plan.amounts
        for metric in plan.metrics
    }
    cells = []
    for labelled in plan.amounts:
        for row in plan.rows:
            of_cell = jobs[labelled, row]
            measures = done.get((labelled, row), {})
            cells.append(
                Cell(
                    row,
                    labelled,
                    sum(job.name in rows for job in of_cell),
                    len(of_cell),
                    measures,
                    {m: against[labelled, m].get(row) for m in plan.metrics},
                    row == plan.baseline_row,
                    row != plan.baseline_row and twins[labelled].get(row) == plan.baseline_row,
                    _optimistic(plan, of_cell, place, rows) if measures else None,
                )
            )
    return cells


def _twins(
    plan: Plan, jobs: Mapping[tuple[int, str], Sequence[Job]], labelled: int
) -> dict[str, str]:
    """By row, the first row that has the very same runs. The baseline is the first of all."""
    rows = [row for row in plan.rows if (labelled, row) in jobs]
    first: dict[frozenset[str], str] = {}
    return {
        row: first.setdefault(frozenset(job.name for job in jobs[labelled, row]), row)
        for row in sorted(rows, key=lambda row: row != plan.baseline_row)
    }


def _against(
    plan: Plan,
    done: Mapping[tuple[int, str], Mapping[str, Measure]],
    twins: Mapping[str, str],
    labelled: int,
    metric: str,
) -> dict[str, Difference]:
    """The differences of all complete rows to the baseline, adjusted over the rows.

    Rows with the very same runs count as one, and are not compared with each other.
    """
    measures = {row: found[metric] for (m, row), found in done.items() if m == labelled}
    if plan.baseline_row not in measures:
        return {}
    # if a subject has none of the classes, only some methods may have a figure of it
    common = set.intersection(*(set(measure.subjects) for measure in measures.values()))
    paired = {
        row: {s: v for s, v in measure.subjects.items() if s in common}
        for row, measure in measures.items()
        if twins[row] == row
    }
    baseline = measures[plan.baseline_row].trainings
    found = differences(paired.pop(plan.baseline_row), paired)
    return {
        row: replace(found[twins[row]], trainings=_by_training(baseline, measures[row].trainings))
        for row in measures
        if twins[row] in found
    }


def _by_training(
    baseline: Mapping[Training, Mapping[str, float]], row: Mapping[Training, Mapping[str, float]]
) -> tuple[float, ...]:
    """The mean difference in each fold and draw, over the subjects that both have."""
    apart = []
    for training, subjects in baseline.items():
        others = row.get(training, {})
        if both := subjects.keys() & others.keys():
            apart.append(float(np.mean([others[s] - subjects[s] for s in sorted(both)])))
    return tuple(apart)


def measures_of(plan: Plan, rows: Sequence[Row]) -> dict[str, Measure]:
    """Measures by metric, from the rows of all runs of a cell; empty if no subject is measured."""
    found: dict[str, Measure] = {}
    for metric in plan.metrics:
        subjects = by_subject(rows, metric)
        if not subjects:
            return {}
        values = np.array(list(subjects.values()))
        trainings: dict[Training, list[Row]] = defaultdict(list)
        for row in rows:
            trainings[int(row["fold"]), int(row["draw"])].append(row)
        found[metric] = Measure(
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            interval=mean_interval(values),
            subjects=subjects,
            trainings={key: by_subject(own, metric) for key, own in sorted(trainings.items())},
        )
    return found


def by_subject(rows: Iterable[Row], metric: str) -> dict[str, float]:
    """The mean of each subject: first over the classes of a case of a run, then over these."""
    cases: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row[metric] != "":
            cases[row["subject"], row["case"], row["run"]].append(float(row[metric]))
    subjects: dict[str, list[float]] = defaultdict(list)
    for (subject, _, _), values in cases.items():
        subjects[subject].append(float(np.mean(values)))
    return {subject: float(np.mean(values)) for subject, values in sorted(subjects.items())}


def _optimistic(
    plan: Plan, jobs: Sequence[Job], place: ComparisonFolder, rows: Mapping[str, Sequence[Row]]
) -> OptimisticDice | None:
    if not (plan.flaws.select_on_test or plan.flaws.pooled_dice):
        return None
    last, best = None, None
    if plan.flaws.select_on_test:
        curves = [
            [
                row["validation_dice"]
                for row in numbers(MetricsFile(place.run(job.name) / "metrics.csv").rows())
            ]
            for job in jobs
        ]
        last = float(np.mean([curve[-1] for curve in curves]))
        best = float(np.mean([max(curve) for curve in curves]))
    pooled = None
    if plan.flaws.pooled_dice:
        pooled = float(np.mean([pooled_dice(rows[job.name]) for job in jobs]))
    return OptimisticDice(last, best, pooled)


def pooled_dice(rows: Iterable[Row]) -> float:
    """Dice of the voxels of all cases of a run together, averaged over classes.

    It weighs subjects by their size, and one failed subject hardly shows in it. The overlap of a
    case follows from its row: 2 |A and B| = Dice (|A| + |B|).
    """
    both: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        if row["dice"] != "":
            ml = math.prod(float(row[f"spacing_{axis}_mm"]) for axis in "xyz") / 1000
            voxels = (float(row["volume_ml"]) + float(row["reference_volume_ml"])) / ml
            both[row["class"]] += float(row["dice"]) * voxels
            total[row["class"]] += voxels
    return float(np.mean([both[name] / total[name] for name in total]))
