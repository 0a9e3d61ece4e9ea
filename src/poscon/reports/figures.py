"""The figures of a report. Each is small enough to be read on a phone.

Initialisations differ in colour (Okabe & Ito's palette for the colour-blind), marker and line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from poscon.comparison.summary import Cell
from poscon.comparison.tables import METRIC_NAMES
from poscon.reports.embeddings import Embeddings
from poscon.reports.page import GRID, INK

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999933", "#882255")
MARKERS = "osD^vPpX"
LINES = ("-", "--", "-.", ":")
SIZE = (4.6, 3.4)
LABELLED_DIAGONAL = 5
FEW_TICKS = 4
"""Of an axis whose numbers may have many digits."""

Curve = tuple[Sequence[float], Sequence[float]]
"""x and y of a line."""


def look(names: Sequence[str], name: str) -> dict[str, Any]:
    """The colour, marker and line of one name of several."""
    i = list(names).index(name)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)],
    }


def against_labelled(
    cells: Sequence[Cell],
    metric: str,
    title: str,
    inits: Sequence[str],
    strategies: Sequence[str] = (),
) -> Figure:
    """Draw a metric against the number of labels: one line per row, with 95 % intervals.

    Args:
        cells: the cells of one fine-tuning.
        metric: the metric.
        title: title of the figure.
        inits: names of all initialisations.
        strategies: names of all strategies that choose labelled slices. They then have the colours
            and the markers, and the initialisations have the lines.
    """
    figure, axes = _axes(SIZE)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    numbers = sorted({cell.labelled for cell in cells})
    for row in rows:
        of_row = [c for c in cells if c.row == row and c.complete]
        if not of_row:
            continue
        shift = (rows.index(row) - (len(rows) - 1) / 2) * 0.35 / len(rows)
        x = [numbers.index(cell.labelled) + shift for cell in of_row]
        measures = [cell.measures[metric] for cell in of_row]
        y = np.array([m.mean for m in measures])
        low = y - [m.interval.low for m in measures]
        high = np.array([m.interval.high for m in measures]) - y
        init, _, *strategy = row.split(" | ")
        style = look(inits, init)
        if strategy:
            style = {**look(strategies, strategy[0]), "linestyle": style["linestyle"]}
        axes.errorbar(
            x,
            y,
            yerr=np.abs([low, high]),
            label=short(row, rows),
            ms=5,
            lw=1.4,
            capsize=3,
            **style,
        )
    axes.set_xticks(range(len(numbers)), [str(n) for n in numbers])
    axes.set_xlim(-0.5, len(numbers) - 0.5)
    what = "labelled slices" if strategies else "labelled subjects"
    axes.set(xlabel=what, ylabel=METRIC_NAMES[metric], title=title)
    _legend(figure, axes)
    return figure


def paired_differences(cells: Sequence[Cell], metric: str, title: str, baseline: str) -> Figure:
    """Draw the differences to the baseline with their intervals.

    A filled point is distinguishable from 0. Ticks are the differences in single trainings.
    """
    shown = [cell for cell in cells if cell.complete and cell.against[metric] is not None]
    figure, axes = _axes((SIZE[0], 1.5 + 0.32 * len(shown)))
    for y, cell in enumerate(reversed(shown)):
        found = cell.against[metric]
        assert found is not None
        assert found.trainings is not None
        ys = [y] * len(found.trainings)
        axes.plot(found.trainings, ys, "|", ms=13, mew=1.4, color="#767676")
        axes.plot([found.interval.low, found.interval.high], [y, y], color="#0072B2", lw=2)
        axes.plot(
            [found.mean],
            [y],
            "o",
            ms=7,
            color="#0072B2",
            markerfacecolor="#0072B2" if found.distinguishable else "none",
        )
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(
        range(len(shown)), [short(cell.row, [c.row for c in cells]) for cell in reversed(shown)]
    )
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(FEW_TICKS))
    axes.set(title=title, xlabel=f"{METRIC_NAMES[metric]} minus that of\n{baseline}")
    return figure


def distributions(cells: Sequence[Cell], metric: str, title: str) -> Figure:
    """Draw every subject as a point, with one box per row."""
    shown = [cell for cell in cells if cell.complete]
    figure, axes = _axes((SIZE[0], 1.2 + 0.42 * len(shown)))
    values = [list(cell.measures[metric].subjects.values()) for cell in reversed(shown)]
    thin = {"color": INK, "lw": 0.9}
    axes.boxplot(
        values,
        orientation="horizontal",
        showfliers=False,
        widths=0.6,
        medianprops={"color": "#D55E00", "lw": 2},
        boxprops=thin,
        whiskerprops=thin,
        capprops=thin,
    )
    jitter = np.random.default_rng(0)
    for y, of_row in enumerate(values, 1):
        axes.plot(
            of_row,
            y + jitter.uniform(-0.2, 0.2, len(of_row)),
            ".",
            ms=4,
            color="#0072B2",
            alpha=0.8,
        )
    axes.set_yticks(
        range(1, len(shown) + 1),
        [short(cell.row, [c.row for c in cells]) for cell in reversed(shown)],
    )
    axes.xaxis.set_major_locator(MaxNLocator(FEW_TICKS))
    axes.set(title=title, xlabel=f"{METRIC_NAMES[metric]} of a subject")
    return figure


def curves(
    lines: Mapping[str, Curve],
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    of: Sequence[str] = (),
    level: float | None = None,
    from_zero: bool = False,
    whole: bool = True,
) -> Figure:
    """Draw lines over steps or minutes.

    Args:
        lines: the lines by name.
        title: title of the figure.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        of: all names, so that a name looks the same in every figure. ``lines`` may hold only some.
        level: height of a horizontal line at chance, or None.
        from_zero: whether the y axis begins at 0.
        whole: whether only whole numbers are marked on the x axis.
    """
    figure, axes = _axes(SIZE)
    for name, (x, y) in lines.items():
        style = look(of or list(lines), name)
        axes.plot(x, y, label=name, ms=4, lw=1.4, markevery=max(1, len(x) // 12), **style)
    if level is not None:
        axes.axhline(level, color=INK, lw=0.8, ls=(0, (1, 2)), label="chance")
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        _legend(figure, axes)
    return figure


def similarity(embeddings: Embeddings, title: str) -> Figure:
    """Draw the similarity of slices in order of position.

    A bright diagonal means that the encoder knows the position.
    """
    figure, axes = _axes((SIZE[0], 4.0))
    shown = axes.imshow(
        embeddings.similarity, cmap="cividis", vmin=-1, vmax=1, origin="lower", aspect="equal"
    )
    n = len(embeddings.positions)
    at = np.linspace(0, n - 1, LABELLED_DIAGONAL).round().astype(int)
    decimals = 0 if embeddings.in_unit else 2
    labels = [f"{embeddings.positions[i]:.{decimals}f}" for i in at]
    axes.set_xticks(at, labels)
    axes.set_yticks(at, labels)
    axes.grid(False)
    axes.set(
        title=title,
        xlabel=f"position of one slice{embeddings.in_unit}",
        ylabel=f"position of another slice{embeddings.in_unit}",
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("similarity")
    bar.outline.set_visible(False)
    return figure


def embedding_map(embeddings: Embeddings, title: str) -> Figure:
    """Draw slices in the plane of the first two principal components, coloured by position."""
    figure, axes = _axes((SIZE[0], 4.0))
    x, y = embeddings.plane.T
    low, high = embeddings.limits
    shown = axes.scatter(
        x,
        y,
        c=embeddings.positions,
        cmap="cividis",
        vmin=low,
        vmax=high,
        s=16,
        edgecolors=GRID,
        lw=0.3,
    )
    axes.spines[:].set_visible(False)
    axes.set(
        title=title,
        xlabel=f"first two components ({embeddings.explained:.0%} of the variance)",
        xticks=[],
        yticks=[],
    )
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label(f"position{embeddings.in_unit}")
    bar.outline.set_visible(False)
    return figure


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=GRID, alpha=0.35, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 4 if max(map(len, labels)) < 14 else 2
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5
    )


def short(row: str, rows: Sequence[str]) -> str:
    """A row's name without the part that all rows share."""
    parts = list(zip(*(name.split(" | ") for name in rows), strict=True))
    own = row.split(" | ")
    return (
        ", ".join(part for part, of_all in zip(own, parts, strict=True) if len(set(of_all)) > 1)
        or own[0]
    )
