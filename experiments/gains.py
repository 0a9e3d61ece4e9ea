"""A figure of what each pre-training gains over a random initialisation, from results files.

    python experiments/gains.py OUT.png TITLE=RESULTS.csv [TITLE=RESULTS.csv ...]

Each file is what ``poscon compare`` writes. A point is the mean difference in Dice between an
initialisation and the random one, over subjects and draws; its bar is the 95 % interval
over subjects; each tick is one training (a fold and a draw). A filled point is distinguishable from
0 by subjects and by trainings (:class:`poscon.statistics.Difference`).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from between import read, trainings
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from poscon.comparison.summary import by_subject
from poscon.statistics import Difference, differences

BLUE, GREY = "#0072B2", "#767676"


def gains(path: Path) -> dict[str, dict[str, Difference]]:
    """By number of labelled subjects and initialisation, the difference to the random one."""
    cells = {tuple(name.split(" | ")): rows for name, rows in read(path).items()}
    found: dict[str, dict[str, Difference]] = {}
    for labelled in dict.fromkeys(labelled for labelled, _, _ in cells):
        own = {init: rows for (m, init, _), rows in cells.items() if m == labelled}
        values = {init: by_subject(rows, "dice") for init, rows in own.items()}
        baseline, base = values.pop("random"), trainings(own["random"])
        found[labelled] = {
            init: replace(
                apart,
                trainings=tuple(v - base[key] for key, v in trainings(own[init]).items()),
            )
            for init, apart in differences(baseline, values).items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("results", nargs="+", help="TITLE=RESULTS.csv")
    arguments = parser.parse_args()
    panels = []
    for argument in arguments.results:
        title, _, path = argument.partition("=")
        panels += [
            (f"{title}\n{labelled} labelled", of_inits)
            for labelled, of_inits in gains(Path(path)).items()
        ]
    figure = Figure(figsize=(2.5 * len(panels) + 0.8, 3.1), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, of_inits) in zip(all_axes, panels, strict=True):
        for y, (init, found) in enumerate(of_inits.items()):
            print(f"{' '.join(title.split())}: {init} {found.mean:+.3f}")
            ticks = found.trainings or ()
            axes.plot(ticks, [y] * len(ticks), "|", ms=12, color=GREY)
            axes.plot([found.interval.low, found.interval.high], [y, y], color=BLUE, lw=2)
            fill = BLUE if found.distinguishable else "white"
            axes.plot([found.mean], [y], "o", ms=7, color=BLUE, markerfacecolor=fill)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks(range(len(of_inits)), list(of_inits))
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel("Dice minus Dice of the random initialisation", fontsize=9)
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
