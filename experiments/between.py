"""The rows that two comparisons have in common, of the same subjects: the second less the first.

    python experiments/between.py RESULTS.csv OTHER.csv

Both are what ``poscon compare`` writes, of the same folds and draws, so that what differs is what
their plans differ in. Of every number of labelled subjects, start and fine-tuning: the mean Dice of
each, the paired difference with its 95 % interval over subjects, p (Wilcoxon, Holm over
all rows), on how many subjects the second is better and worse, and in how many trainings (a fold
and a draw), with the 95 % interval of their mean (Student's t).
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from poscon.comparison.summary import Row, by_subject
from poscon.comparison.tables import difference, trainings_ahead, won_lost
from poscon.statistics import differences


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    first, second = read(arguments.results), read(arguments.other)
    common = [name for name in first if name in second]
    if not common:
        parser.error("no row is in both")
    apart, means, by_training = {}, {}, {}
    for name in common:
        here, there = (by_subject(rows[name], "dice") for rows in (first, second))
        means[name] = (fmean(here.values()), fmean(there.values()))
        apart[name] = {subject: there[subject] - value for subject, value in here.items()}
        ours, theirs = trainings(first[name]), trainings(second[name])
        by_training[name] = tuple(theirs[key] - value for key, value in ours.items())
    nothing = dict.fromkeys(apart[common[0]], 0.0)
    print(
        "| labelled | start | fine-tuning | first | second | second less first "
        "| better, worse | trainings ahead |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, found in differences(nothing, apart).items():
        told = replace(found, trainings=by_training[name])
        print(
            f"| {name} | {means[name][0]:.3f} | {means[name][1]:.3f} "
            f"| {difference(told, 'dice')}, p = {told.p:.2g} "
            f"| {won_lost(told, 'dice')} | {trainings_ahead(told, 'dice')} |"
        )


def read(path: Path) -> dict[str, list[Row]]:
    """The rows of a comparison by the cells of its table."""
    cells: dict[str, list[Row]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            cells[f"{row['labelled']} | {row['pretraining']} | {row['finetuning']}"].append(row)
    return cells


def trainings(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """Mean Dice over the subjects of every fold and draw."""
    runs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        runs[row["fold"], row["draw"]].append(row)
    return {key: fmean(by_subject(own, "dice").values()) for key, own in runs.items()}


if __name__ == "__main__":
    main()
