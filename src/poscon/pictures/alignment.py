"""Where volumes lie on a common axis, before and after they were aligned, and slices at a level."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from poscon.files import complete
from poscon.pictures.contact_sheet import COLOURS
from poscon.pictures.orientation import radiological
from poscon.pictures.plain import PLAIN
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store

MOST_BARS = 60
"""More volumes are not drawn; of more, an even sample."""
LEVELS = 7
SHOWN = 3
"""Volumes whose slices are drawn."""
BAR, AGAINST, UNKNOWN = COLOURS[4], COLOURS[6], "#BBBBBB"


@matplotlib.rc_context(PLAIN)
def draw_alignment(
    path: Path,
    store: Store,
    coordinates: Sequence[np.ndarray],
    against: np.ndarray,
    determined: np.ndarray,
    by_images: bool,
) -> None:
    """Draw bars of all volumes before and after, and slices of three volumes at equal coordinates.

    Args:
        path: PNG to write, complete or not at all.
        store: holds the pixels. If there are several image channels, the first is drawn.
        coordinates: (slices,) of each case of the store, mm.
        against: (V,) bool, whether the case runs against most of them.
        determined: (V,) bool, whether its images say where it lies.
        by_images: whether the cases are placed by their images; else by their place in the scan.
    """
    cases = store.cases
    n_bars = min(MOST_BARS, len(cases))
    drawn = np.unique(np.linspace(0, len(cases) - 1, n_bars).astype(np.int64)).tolist()
    shown = _widest(cases, coordinates, determined)
    bars = 1.0 + 0.14 * len(drawn)
    height = 0.9 + bars + 1.5 * len(shown)
    figure = Figure(figsize=(11, height), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[bars, 1.5 * len(shown)])
    top = grid[0].subgridspec(1, 2)
    lengths = [np.arange(case.shape[0]) * case.spacing[0] for case in cases]
    before = [length - length[-1] / 2 for length in lengths]
    after = "after: alike slices at one coordinate"
    if not by_images:
        after = "after: by the position in the scan"
    for place, title, at in (
        (0, "before: the middle of every volume at 0", before),
        (1, after, coordinates),
    ):
        axes = figure.add_subplot(top[place])
        _draw_bars(axes, [at[i] for i in drawn], against[drawn], determined[drawn], by_images)
        axes.set_title(title, fontsize=10, pad=22)
        if place == 0:
            names = [cases[i].id[-14:] for i in drawn]
            axes.set_yticks(range(len(drawn)), names, fontsize=6)
        else:
            axes.set_yticks([])
    _draw_slices(figure, grid[1], store, [(cases[i], coordinates[i]) for i in shown])
    of_all = f" ({len(drawn)} of {len(cases)} are drawn)" if len(drawn) < len(cases) else ""
    figure.suptitle(f"{store.name}: {len(cases)} volumes on one axis{of_all}", fontsize=12)
    with complete(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _draw_bars(
    axes: Axes,
    coordinates: Sequence[np.ndarray],
    against: np.ndarray,
    determined: np.ndarray,
    by_images: bool,
) -> None:
    shown = determined | (not by_images)  # by the scan all are placed
    kinds = {
        "placed by its images" if by_images else "placed by the scan": (BAR, shown & ~against),
        "runs against the others": (AGAINST, shown & against),
        "its images do not tell": (UNKNOWN, ~shown),
    }
    for label, (colour, mask) in kinds.items():
        rows = np.flatnonzero(mask).tolist()
        if rows:
            low = np.array([coordinates[row].min() for row in rows])
            high = np.array([coordinates[row].max() for row in rows])
            axes.barh(rows, high - low, left=low, height=0.7, color=colour, label=label)
    axes.invert_yaxis()
    axes.use_sticky_edges = False
    axes.margins(x=0.03)
    axes.set_xlabel("mm", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _widest(
    cases: Sequence[CaseRecord], coordinates: Sequence[np.ndarray], determined: np.ndarray
) -> list[int]:
    """The volumes whose slices are drawn: those that cover most of the axis, one of a subject."""
    span = [
        float(np.ptp(at)) if good else -1.0
        for at, good in zip(coordinates, determined, strict=True)
    ]
    chosen: dict[str, int] = {}
    for number in np.argsort(np.negative(span), kind="stable").tolist():
        chosen.setdefault(cases[number].subject, number)
    return sorted(list(chosen.values())[:SHOWN])


def _draw_slices(
    figure: Figure, place: SubplotSpec, store: Store, shown: Sequence[tuple[CaseRecord, np.ndarray]]
) -> None:
    low = max(float(at.min()) for _, at in shown)
    high = min(float(at.max()) for _, at in shown)
    levels = np.linspace(min(low, high), max(low, high), LEVELS)
    grid = place.subgridspec(len(shown), LEVELS)
    for row, (case, at) in enumerate(shown):
        for column, level in enumerate(levels):
            axes = figure.add_subplot(grid[row, column])
            image = radiological(
                store.image(case)[int(np.abs(at - level).argmin()), 0].astype(np.float32)
            )
            least, most = np.percentile(image, (1, 99.5))
            _, mm_row, mm_column = case.spacing
            axes.imshow(image, cmap="gray", vmin=least, vmax=most, aspect=mm_row / mm_column)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"{level:.0f} mm", fontsize=9)
            if column == 0:
                axes.set_ylabel(case.id[-14:], fontsize=8)
