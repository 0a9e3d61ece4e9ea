"""What a start gains within each fine-tuning method, from the results of a comparison.

    python experiments/start_gain.py RESULTS.csv [--start pcl]

RESULTS.csv is what ``poscon compare`` writes, or ``comparison.py --table finetuning``. Of every
subject, the mean Dice over classes, frames and draws from that start, less that from a random start
with the same fine-tuning; and the mean over all fine-tuning methods, as one more row. Holm is over
the rows of a number of labelled subjects.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from poscon.statistics import differences

ALL = "all of them"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--start", default="pcl")
    arguments = parser.parse_args()
    values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    with arguments.results.open(newline="") as file:
        for row in csv.DictReader(file):
            finetuning = row.get("finetuning") or row["method"]
            start = row.get("pretraining") or row["start"]
            key = (row["labelled"], finetuning, start, row["subject"])
            values[key].append(float(row["dice"]))
    dice = {key: fmean(found) for key, found in values.items()}
    methods = list(dict.fromkeys(method for _, method, _, _ in dice))
    print("| M | fine-tuning | gained by the start [95 %] | p (Holm) | subjects better, worse |")
    print("|---|---|---|---|---|")
    for labelled in dict.fromkeys(key[0] for key in dice):
        subjects = sorted({key[3] for key in dice if key[0] == labelled})
        gained = {
            method: {
                s: dice[labelled, method, arguments.start, s] - dice[labelled, method, "random", s]
                for s in subjects
            }
            for method in methods
        }
        gained[ALL] = {s: fmean(gained[method][s] for method in methods) for s in subjects}
        for name, found in differences(dict.fromkeys(subjects, 0.0), gained).items():
            low, high = found.interval.low, found.interval.high
            print(
                f"| {labelled} | {name} | {found.mean:+.3f} [{low:+.3f}, {high:+.3f}] "
                f"| {found.p:.2g} | {found.wins}, {found.losses} of {found.subjects} |"
            )


if __name__ == "__main__":
    main()
