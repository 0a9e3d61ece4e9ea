"""The curves of a pre-training: its loss and the diagnostics of its encoder over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from poscon.files import complete

# Okabe & Ito's palette
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"


def draw_diagnostics(
    path: Path, rows: Sequence[dict[str, float]], *, title: str, in_unit: str = ""
) -> None:
    """Draw the rows of a pre-training's metrics.csv.

    Args:
        path: PNG to write, complete or not at all.
        rows: the rows as numbers. Values may be missing.
        title: title of the picture.
        in_unit: see :attr:`poscon.positions.PositionKind.in_unit`.
    """
    figure = Figure(figsize=(10, 6.4))
    # fixed margins: a layout engine takes as long as all the rest of the picture
    margins = {"left": 0.06, "right": 0.985, "top": 0.885, "bottom": 0.075}
    grid = figure.add_gridspec(2, 2, **margins, wspace=0.15, hspace=0.36)
    pair = grid[0, 1].subgridspec(2, 1, hspace=0.62)
    loss = figure.add_subplot(grid[0, 0])
    align, spread = figure.add_subplot(pair[0]), figure.add_subplot(pair[1])
    rank, retrieval = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])

    _draw(loss, rows, "loss", BLUE)
    _draw(loss, rows, "chance", GREY, line="--", label="chance: a network that knows nothing")
    _draw(loss, rows, "floor", GREY, line=":", label="floor: about the least possible")
    _draw(align, rows, "alignment", VERMILION)
    _draw(spread, rows, "uniformity", GREEN)
    _draw(rank, rows, "effective_rank", BLUE)
    _draw(retrieval, rows, "retrieval_error", BLUE, label="nearest slice of another subject")
    _draw(retrieval, rows, "retrieval_chance", GREY, line="--", label="chance: a random slice")

    loss.set_title("loss")
    align.set_title("alignment: squared distance of two views of a slice")
    spread.set_title("uniformity: 0 = all slices at one point, lower = spread out")
    rank.set_title("effective rank of the features: 1 = one direction only")
    retrieval.set_title(f"position retrieval error{in_unit}: 0 = same level of the volume")
    last = max(1.0, *(row["step"] for row in rows))
    for axes in (loss, align, spread, rank, retrieval):
        axes.set_title(axes.get_title(), fontsize=10, y=1)  # without y it looks for its place, long
        axes.margins(y=0.1)
        if axes in (align, rank, retrieval):
            axes.set_ylim(bottom=0)
        elif axes is spread:
            axes.set_ylim(top=0)
        axes.set_xlim(-0.03 * last, 1.03 * last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        if axes is not align:
            axes.set_xlabel("step", fontsize=9)
        if not axes.lines:
            axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_yticks([])
        elif len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=12)
    with complete(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _draw(
    axes: Axes,
    rows: Sequence[dict[str, float]],
    name: str,
    colour: str,
    *,
    line: str = "-",
    label: str | None = None,
) -> None:
    """Draw one column over the steps, with a point per value if there are few."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    style: dict[str, Any] = {"color": colour, "linestyle": line, "label": label or name}
    if line == "-":
        axes.plot(steps, values, marker="o" if len(points) <= 30 else "", markersize=3, **style)
    elif len(points) == 1:
        axes.axhline(values[0], **style)
    else:
        axes.plot(steps, values, **style)
