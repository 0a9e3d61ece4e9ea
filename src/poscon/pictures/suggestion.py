"""The slices that a strategy chose, and where they lie among all."""

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
from poscon.positions import POSITIONS
from poscon.store.store import Store
from poscon.suggestion.pool import Slices, unit

MOST_TILES = 32
"""More chosen slices are not drawn."""
ACROSS = 8
"""Tiles in a row."""
MOST_SUBJECTS = 40
MOST_POINTS = 5000
"""Of more slices, an even sample is drawn on the map."""
CHOSEN, LABELLED, GREY = COLOURS[4], COLOURS[6], "#BBBBBB"


@matplotlib.rc_context(PLAIN)
def draw_suggestion(
    path: Path,
    store: Store,
    slices: Slices,
    chosen: Sequence[np.ndarray],
    features: np.ndarray | None,
    *,
    title: str,
) -> None:
    """Draw chosen slices as small images, and below them a map of all slices.

    The map is that of the first two principal components of the features. Without features it has
    a line for each subject, with its slices by their position.

    Args:
        path: PNG to write, complete or not at all.
        store: holds the pixels. If there are several image channels, the first is drawn.
        slices: all slices.
        chosen: for each choice the numbers of its slices. Of several the middle one is drawn.
        features: (N, D) features of all slices, or None.
        title: title of the picture.
    """
    tiles = [rows[len(rows) // 2] for rows in chosen[:MOST_TILES]]
    lines = -(-len(tiles) // ACROSS)
    shown = [] if features is not None else _subjects_shown(slices, chosen)
    map_height = 4.6 if features is not None else 1.2 + 0.16 * len(shown)
    figure = Figure(figsize=(11, 0.6 + 1.75 * lines + map_height), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[1.75 * lines, map_height])
    _draw_tiles(figure, grid[0], store, slices, tiles)
    axes = figure.add_subplot(grid[1])
    if features is not None:
        _draw_embeddings(figure, axes, slices, chosen, features)
    else:
        _draw_subjects(axes, slices, chosen, shown)
    more = f" (the first {len(tiles)} are drawn)" if len(chosen) > len(tiles) else ""
    figure.suptitle(f"{title}, {len(chosen)} chosen{more}", fontsize=12)
    with complete(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _draw_tiles(
    figure: Figure, place: SubplotSpec, store: Store, slices: Slices, rows: Sequence[int]
) -> None:
    lines = -(-len(rows) // ACROSS)
    grid = place.subgridspec(lines, ACROSS)
    for number, row in enumerate(rows):
        case, index = slices.cases[slices.case_of[row]], int(slices.slice_of[row])
        axes = figure.add_subplot(grid[divmod(number, ACROSS)])
        image = radiological(store.image(case)[index, 0].astype(np.float32))
        low, high = np.percentile(image, (1, 99.5))
        _, mm_row, mm_column = case.spacing
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=mm_row / mm_column)
        axes.set_title(
            f"{number + 1}: {case.id[-18:]}\nslice {index}, at {_place(slices, row)}",
            fontsize=7,
        )
        axes.set(xticks=[], yticks=[], anchor="N")  # so that the titles of a row are level


def _draw_embeddings(
    figure: Figure,
    axes: Axes,
    slices: Slices,
    chosen: Sequence[np.ndarray],
    features: np.ndarray,
) -> None:
    """The plane of the first two principal components of the features at unit length."""
    plane, explained = principal_plane(unit(features))
    drawn = np.unique(np.linspace(0, len(plane) - 1, MOST_POINTS).astype(int))
    x, y = plane.T
    low, high = POSITIONS[slices.position].limits or (None, None)
    points = axes.scatter(
        x[drawn], y[drawn], c=slices.positions[drawn], s=6, vmin=low, vmax=high, linewidths=0
    )
    figure.colorbar(points, ax=axes, label=_axis_label(slices), pad=0.01)
    for rows, marker, size, colour, label in (
        (np.flatnonzero(slices.labelled), "s", 22, LABELLED, "labelled already"),
        (np.concatenate(chosen), "o", 45, CHOSEN, "chosen"),
    ):
        if len(rows):
            axes.scatter(
                x[rows], y[rows], s=size, marker=marker, edgecolors=colour, facecolors="none",
                label=label,
            )  # fmt: skip
    for number, rows in enumerate(chosen[:MOST_TILES], start=1):
        at = plane[rows[len(rows) // 2]]
        axes.annotate(str(number), tuple(at), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"embeddings: two principal components, {explained:.0%} of the variance")
    axes.title.set_fontsize(9)
    axes.set(xticks=[], yticks=[])


def _place(slices: Slices, row: int) -> str:
    """The position of a slice, with its unit."""
    kind, at = POSITIONS[slices.position], slices.positions[row]
    return f"{at:.0f} {kind.unit}" if kind.unit else f"{at:.2f}"


def _axis_label(slices: Slices) -> str:
    kind = POSITIONS[slices.position]
    return f"{slices.position} position{kind.in_unit}"


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components of points.

    Args:
        points: (N, D).

    Returns:
        (N, 2), and the share of the variance that lies in that plane. For one dimension the second
        component is 0.
    """
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    plane = np.zeros((len(points), 2))
    first = directions[:, ::-1][:, :2]
    plane[:, : first.shape[1]] = centred @ first
    total = variances.sum()
    return plane, float(variances[::-1][:2].sum() / total) if total > 0 else 0.0


def _subjects_shown(slices: Slices, chosen: Sequence[np.ndarray]) -> list[int]:
    """The subjects with a chosen slice, in the order of the choices, then the others."""
    first = dict.fromkeys(int(slices.subject_of[row]) for rows in chosen for row in rows)
    others = dict.fromkeys(range(len(slices.subject_names)))
    return list({**first, **others})[:MOST_SUBJECTS]


def _draw_subjects(
    axes: Axes, slices: Slices, chosen: Sequence[np.ndarray], shown: Sequence[int]
) -> None:
    """A line for each subject: its slices by position, those that are labelled and chosen."""
    line_of = np.full(len(slices.subject_names), -1)
    line_of[list(shown)] = np.arange(len(shown))
    every = np.concatenate(chosen)
    is_chosen = np.zeros(len(slices.positions), bool)
    is_chosen[every] = True
    visible = line_of[slices.subject_of] >= 0
    for rows, marker, size, colour, label in (
        (visible & ~slices.labelled, "|", 18, GREY, "slice"),
        (visible & slices.labelled, "|", 40, LABELLED, "labelled already"),
        (visible & is_chosen, "o", 26, CHOSEN, "chosen"),
    ):
        if rows.any():
            lines = line_of[slices.subject_of[rows]]
            axes.scatter(
                slices.positions[rows], lines, s=size, marker=marker, color=colour, label=label
            )
    for number, rows in enumerate(chosen[:MOST_TILES], start=1):
        row = rows[len(rows) // 2]
        if visible[row]:
            at = (slices.positions[row], line_of[slices.subject_of[row]])
            axes.annotate(str(number), at, xytext=(5, 2), textcoords="offset points", fontsize=7)
    names = [slices.subject_names[subject][-18:] for subject in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.set(xlim=POSITIONS[slices.position].limits, ylim=(len(shown) - 0.5, -0.5))
    axes.set_xlabel(_axis_label(slices), fontsize=9)
    more = len(slices.subject_names) - len(shown)
    title = f"slices of the subjects{f', {more} more subjects are not drawn' if more else ''}"
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
