"""A figure of what pre-training gains at each length of a fine-tuning, from a results file.

    python experiments/lengths.py RESULTS.csv OUT.png [--labelled 2] [--baseline random]

RESULTS.csv is what ``poscon compare`` writes of a plan whose fine-tunings are called
``NAME-STEPS``, such as ``poscon-300``. Each is a training of its own. There is a pair of panels for
each NAME: above, the mean Dice over the subjects and draws, by the number of steps; below, the
difference from the baseline, with its 95 % interval over subjects. The table that is
printed has the same numbers.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from between import read
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from poscon.comparison.summary import by_subject
from poscon.statistics import Difference, differences

STYLES = (
    ("black", "o"),
    ("#0072B2", "s"),
    ("#D55E00", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "v"),
    ("#56B4E9", "P"),
    ("#E69F00", "X"),
)
"""Colour and marker of each start, told apart without seeing colours."""
Means = dict[str, dict[int, dict[str, float]]]
"""Value of each subject by start and steps."""


def by_length(path: Path, labelled: str) -> dict[str, Means]:
    """By fine-tuning, start and steps: the Dice of each subject."""
    found: dict[str, Means] = defaultdict(lambda: defaultdict(dict))
    for cell, rows in read(path).items():
        number, start, finetuning = cell.split(" | ")
        name, _, steps = finetuning.rpartition("-")
        if number == labelled:
            found[name][start][int(steps)] = by_subject(rows, "dice")
    return found


def gains(means: Means, baseline: str) -> dict[str, dict[int, Difference]]:
    """By start and steps: the difference from the baseline, where both are finished."""
    found: dict[str, dict[int, Difference]] = defaultdict(dict)
    for steps, base in sorted(means[baseline].items()):
        others = {
            start: values[steps]
            for start, values in means.items()
            if start != baseline and steps in values
        }
        for start, apart in differences(base, others).items():
            found[start][steps] = apart
    return found


def draw(above: Axes, below: Axes, means: Means, apart: dict[str, dict[int, Difference]]) -> None:
    """Draw the panels of one fine-tuning."""
    all_steps = sorted({steps for values in means.values() for steps in values})
    for number, (start, values) in enumerate(means.items()):
        colour, marker = STYLES[number % len(STYLES)]
        at = sorted(values)
        style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5, "lw": 1.5}
        above.plot(at, [fmean(values[s].values()) for s in at], label=start, **style)
        if start not in apart:
            below.axhline(0, color=colour, lw=1.5)
            continue
        of_start = apart[start]
        # moved apart a little, so that the bars do not hide each other
        places = [steps * 1.06 ** (number - len(means) / 2) for steps in of_start]
        centre = [d.mean for d in of_start.values()]
        low = [d.mean - d.interval.low for d in of_start.values()]
        high = [d.interval.high - d.mean for d in of_start.values()]
        below.errorbar(places, centre, yerr=(low, high), capsize=2, **style)
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xticks(all_steps, [f"{steps:,}".replace(",", " ") for steps in all_steps])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    below.set_xlabel("steps of fine-tuning", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labelled", default="2", help="number of labelled subjects")
    parser.add_argument("--baseline", default="random", help="start that others are compared with")
    arguments = parser.parse_args()
    panels = by_length(arguments.results, arguments.labelled)
    if not panels or any(arguments.baseline not in means for means in panels.values()):
        parser.error(f"{arguments.results} has no {arguments.baseline} with {arguments.labelled}")
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 6.2), layout="constrained")
    grid = figure.subplots(2, len(panels), sharey="row", squeeze=False)
    print("| fine-tuning | steps | start | Dice | less that of the baseline |")
    print("|---|---|---|---|---|")
    for column, (name, means) in enumerate(panels.items()):
        apart = gains(means, arguments.baseline)
        draw(grid[0, column], grid[1, column], means, apart)
        if len(panels) > 1:
            grid[0, column].set_title(f"fine-tuning: {name}", fontsize=11)
        for steps in sorted(means[arguments.baseline]):
            for start, values in means.items():
                if steps not in values:
                    continue
                dice, gain = fmean(values[steps].values()), ""
                if start in apart:
                    of = apart[start][steps]
                    gain = f"{of.mean:+.3f} [{of.interval.low:+.3f}, {of.interval.high:+.3f}]"
                print(f"| {name} | {steps} | {start} | {dice:.3f} | {gain} |")
    grid[0, 0].set_ylabel("mean Dice of the test subjects", fontsize=10)
    grid[1, 0].set_ylabel(f"gain over {arguments.baseline}, 95 % interval", fontsize=10)
    fullest = max(range(len(panels)), key=lambda column: len([*panels.values()][column]))
    grid[0, fullest].legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
