"""The contact sheet: a few slices of a few cases on one picture, to show what a store holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from poscon.errors import PosconError
from poscon.files import complete
from poscon.pictures.orientation import caption, radiological
from poscon.pictures.plain import PLAIN
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.volumes.case import IGNORE

LineStyle = Literal["solid", "dashed", "dotted"]

N_CASES = 8
POSITIONS = tuple((i + 0.5) / 6 for i in range(6))
"""Relative positions of the columns; each shows the slice that covers its position."""

SOFTWARE = "poscon contact sheet"
"""The mark in the PNG by which poscon knows its own picture."""

# Okabe & Ito's palette, the dark blue last and without black: neither stands out on grey.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
LINES: tuple[LineStyle, ...] = ("solid", "dashed", "dotted")

_TILE = 1.5  # inches: width of a tile; the following are inches too
_TILE_HEIGHT = (0.4, 2.4)  # narrowest and tallest that the shape of a slice may make it
_GAP = 0.05
_MARGIN = 0.15
_LINE = 0.2  # height of a line of text
_ID_LENGTH = 60


@dataclass(frozen=True)
class _Row:
    """One case on the sheet.

    Attributes:
        case: its record.
        indices: the slice in each column.
        height: height of its tiles, inches.
    """

    case: CaseRecord
    indices: tuple[int, ...]
    height: float


@matplotlib.rc_context(PLAIN)
def draw_contact_sheet(store: Store, path: Path, cases: Sequence[CaseRecord] | None = None) -> None:
    """Draw up to `N_CASES` cases at `POSITIONS`, with the classes outlined; the first channel.

    The cases are spread evenly over all candidates: labelled ones by id, then the others by id.

    Args:
        store: holds the pixels.
        path: the PNG to write, complete or not at all. Its folder is created.
        cases: the candidates; None means all cases.

    Raises:
        PosconError: no case to draw, or a file exists there that is no contact sheet.
    """
    check_target(path)
    candidates = sorted(
        store.cases if cases is None else cases, key=lambda c: (not c.labelled, c.id)
    )
    if not candidates:
        raise PosconError(f"{store.path}: no case can be read; prepare the store again")
    chosen = np.linspace(0, len(candidates) - 1, min(N_CASES, len(candidates))).round().astype(int)
    figure = _figure(store, [_row(candidates[i]) for i in chosen])
    with complete(path) as part:
        figure.savefig(part, format="png", facecolor="white", metadata={"Software": SOFTWARE})


def check_target(path: Path) -> None:
    """Check that the contact sheet may be written there.

    Raises:
        PosconError: the path is no PNG, is a folder, or holds a file that poscon did not draw.
    """
    if path.suffix.lower() != ".png":
        raise PosconError(
            f"{path}: the contact sheet is a picture; choose a name that ends in .png"
        )
    if path.is_dir():
        raise PosconError(f"{path}: is a folder; name a file in it")
    if path.exists():
        with path.open("rb") as file:
            ours = SOFTWARE.encode() in file.read(1024)
        if not ours:
            raise PosconError(
                f"{path}: exists already and is no contact sheet of poscon; choose another name"
            )


def slice_at(position: float, n_slices: int) -> int:
    """Index of the slice that covers a relative position in [0, 1)."""
    return int(position * n_slices)


def _row(case: CaseRecord) -> _Row:
    slices, rows, columns = case.shape
    _, row_mm, column_mm = case.spacing
    low, high = _TILE_HEIGHT
    return _Row(
        case=case,
        indices=tuple(slice_at(position, slices) for position in POSITIONS),
        height=float(np.clip(_TILE * rows * row_mm / (columns * column_mm), low, high)),
    )


def _figure(store: Store, rows: list[_Row]) -> Figure:
    """Lay the sheet out from the top: heading, positions of the columns, cases, legend."""
    planes = sorted({row.case.geometry.plane for row in rows})
    heading = [f"{store.name}: {len(rows)} of {len(store.cases)} cases"]
    if store.channels > 1:
        heading.append(f"Shown is channel 0 ({store.manifest.channels[0]}) of {store.channels}")
    heading += [caption(plane) for plane in planes]
    width = 2 * _MARGIN + len(POSITIONS) * _TILE + (len(POSITIONS) - 1) * _GAP
    legend_columns = len(POSITIONS)

    shown = _classes_shown(store, rows)
    legend_lines = -(-len(shown) // legend_columns)
    height = (
        2 * _MARGIN
        + _LINE * (len(heading) + 1)
        + sum(_LINE + row.height + _GAP for row in rows)
        + _LINE * legend_lines
        + 2 * _GAP
    )
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)

    def left(column: int) -> float:
        return _MARGIN + column * (_TILE + _GAP)

    def text(x: float, top: float, content: str, **style: Any) -> None:
        y = (top - _LINE / 2) / height
        figure.text(x / width, y, content, va="center", **{"fontsize": 8, **style})

    top = height - _MARGIN
    for i, line in enumerate(heading):
        text(_MARGIN, top, line, fontweight="normal" if i else "bold")
        top -= _LINE
    for column, position in enumerate(POSITIONS):
        text(left(column) + _TILE / 2, top, f"position {position:.2f}", ha="center")
    top -= _LINE
    for row in rows:
        text(_MARGIN, top, _case_line(row.case))
        top -= _LINE
        images = store.image(row.case)[list(row.indices), 0].astype(np.float32)
        images = radiological(images)
        grey = np.percentile(images, (0.5, 99.5))
        for column, index in enumerate(row.indices):
            box = (left(column), top - row.height, _TILE, row.height)
            axes = figure.add_axes(
                (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            )
            label = radiological(store.label(row.case)[index]) if row.case.labelled else None
            _draw_slice(axes, images[column], label, row.case, (float(grey[0]), float(grey[1])))
            axes.text(
                0.03, 0.97, f"{index + 1}/{row.case.shape[0]}", transform=axes.transAxes,
                color="white", fontsize=6, va="top",
                bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1},
            )  # fmt: skip
        top -= row.height + _GAP
    top -= _GAP
    if shown:
        names = store.class_names
        handles = [
            Line2D([], [], color=_colour(c), linestyle=_line(c), label=_shorten(names[c - 1], 16))
            for c in shown
        ]
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(_MARGIN / width, top / height),
            ncols=legend_columns, fontsize=8, frameon=False, borderpad=0, borderaxespad=0,
        )  # fmt: skip
    return figure


def _classes_shown(store: Store, rows: list[_Row]) -> list[int]:
    """Class indices that occur on the sheet."""
    found: set[int] = set()
    for row in rows:
        if row.case.labelled:
            found.update(np.unique(store.label(row.case)[list(row.indices)]).tolist())
    return sorted(found - {0, IGNORE})


def _draw_slice(
    axes: Axes,
    image: np.ndarray,
    label: np.ndarray | None,
    case: CaseRecord,
    grey: tuple[float, float],
) -> None:
    """Draw (rows, columns) image and class outlines, row 0 at the top.

    A slice that is not labelled says so; a part that is not labelled is hatched.
    """
    _, row_mm, column_mm = case.spacing
    axes.imshow(
        image, cmap="gray", vmin=grey[0], vmax=grey[1], origin="upper", aspect=row_mm / column_mm
    )
    if label is not None:
        padded = np.pad(label, 1)  # an outline closes at the border of the slice
        at = [np.arange(-1, n + 1) for n in label.shape]
        ignored = label == IGNORE
        if ignored.all():
            axes.text(
                0.03, 0.03, "not labelled", transform=axes.transAxes, color="white", fontsize=6,
                bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1},
            )  # fmt: skip
        elif ignored.any():
            axes.contourf(
                at[1], at[0], np.pad(ignored, 1), levels=[0.5, 1], colors="none", hatches=["////"]
            )
        for c in np.unique(label[(label > 0) & ~ignored]).tolist():
            axes.contour(
                at[1], at[0], padded == c, levels=[0.5], colors=[_colour(c)],
                linestyles=_line(c), linewidths=0.8,
            )  # fmt: skip
    rows, columns = image.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_facecolor("black")
    axes.axis("off")


def _case_line(case: CaseRecord) -> str:
    slices, rows, columns = case.shape
    slice_mm, row_mm, column_mm = case.spacing
    return (
        f"{_shorten(case.id, _ID_LENGTH)}    {case.modality}, {slices} slices of "
        f"{rows} x {columns}, {row_mm:.3g} x {column_mm:.3g} mm, {slice_mm:.3g} mm apart"
        f"{_labelled(case)}"
    )


def _labelled(case: CaseRecord) -> str:
    """What of a case is labelled, if it is not every slice."""
    if not case.labelled:
        return ", not labelled"
    return f", {case.n_labelled_slices} of them labelled" if case.partly_labelled else ""


def _shorten(name: str, length: int) -> str:
    """The name, without its middle if it is longer than that."""
    if len(name) <= length:
        return name
    keep = length - 3
    return f"{name[: keep // 2]}...{name[-(keep - keep // 2) :]}"


def _colour(class_index: int) -> str:
    return COLOURS[(class_index - 1) % len(COLOURS)]


def _line(class_index: int) -> LineStyle:
    return LINES[(class_index - 1) // len(COLOURS) % len(LINES)]
