"""What a strategy of choosing slices gains over another, from the results of comparisons.

    python experiments/slice_strategies.py RESULTS.csv [RESULTS.csv ...] [--baseline spread]

Each file is what ``poscon compare`` writes for a plan with strategies, all with the same test
subjects and one number of labelled slices. Rows of every fine-tuning and initialisation are taken
as they are, so a file has one of them. A line for each strategy: the mean Dice over draws, the Dice
of each draw, and the difference from the baseline in the draws that both have, with its 95 %
interval over subjects, p (Wilcoxon, without a correction), the subjects that are better
and worse, and the 95 % interval over draws (Student's t).
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from poscon.comparison.summary import by_subject
from poscon.statistics import Difference, differences

Draws = dict[str, dict[str, float]]
"""By draw: the Dice of each subject."""


def read(paths: list[Path]) -> dict[str, Draws]:
    """By strategy and draw: the Dice of each subject, the mean over its cases and classes."""
    rows: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows[row["strategy"], row["draw"]].append(row)
    found: dict[str, Draws] = defaultdict(dict)
    for (strategy, draw), own in sorted(rows.items()):
        found[strategy][draw] = by_subject(own, "dice")
    return found


def over_draws(draws: Draws, names: list[str]) -> dict[str, float]:
    """The mean of each subject over the named draws."""
    return {s: fmean(draws[name][s] for name in names) for s in draws[names[0]]}


def less(draws: Draws, base: Draws) -> Difference | None:
    """A strategy less another, over the draws that both have; None if they have none in common."""
    both = [name for name in draws if name in base]
    if not both:
        return None
    (found,) = differences(over_draws(base, both), {"": over_draws(draws, both)}).values()
    by_draw = tuple(fmean(draws[name].values()) - fmean(base[name].values()) for name in both)
    return replace(found, trainings=by_draw)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--baseline", default="spread")
    arguments = parser.parse_args()
    found = read(arguments.results)
    if arguments.baseline not in found:
        parser.error(f"no row of the strategy {arguments.baseline}")
    print("| strategy | Dice | draws | difference | p | better, worse | over draws |")
    print("|---|---|---|---|---|---|---|")
    for strategy, draws in found.items():
        dice = [fmean(values.values()) for values in draws.values()]
        cells = [strategy, f"{fmean(dice):.3f}", ", ".join(f"{value:.3f}" for value in dice)]
        apart = None if strategy == arguments.baseline else less(draws, found[arguments.baseline])
        if apart is None:
            cells += [""] * 4
        else:
            interval, over = apart.interval, apart.of_trainings
            cells += [
                f"{apart.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]",
                f"{apart.p:.2g}",
                f"{apart.wins}, {apart.losses} of {apart.subjects}",
                "one draw" if over is None else f"[{over.low:+.3f}, {over.high:+.3f}]",
            ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
