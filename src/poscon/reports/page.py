"""One self-contained HTML page of sections: no network, dark and light, readable on a phone."""

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import matplotlib
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of the page's text: text and axes drawn in it take that colour."""
GRID = "#8f8f8f"
_NO_BREAK = str.maketrans({" ": "\u00a0", "-": "\u2011"})

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "poscon",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Table:
    """A table: text cells, the first row of headings."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure. Screen readers read ``says`` instead of the text in it.

    Attributes:
        svg: what :func:`svg` made.
        says: what it shows.
        wide: whether it takes the whole width.
    """

    svg: str
    says: str
    wide: bool = False


@dataclass(frozen=True)
class Slices:
    """A volume, shown slice by slice with a slider.

    Attributes:
        title: the case and its figures.
        pngs: base64 of each slice.
        legend: (colour, name) of what is outlined.
    """

    title: str
    pngs: Sequence[str]
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: text, then pictures, then volumes, then tables. Each may be empty.

    Attributes:
        paired: whether two successive pictures belong together and stand side by side where there
            is room.
        alarm: whether the part is shown as a warning.
    """

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    slices: Sequence[Slices] = ()
    tables: Sequence[Table] = ()
    paired: bool = False
    alarm: bool = False

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def svg(draw: Figure, name: str) -> str:
    """A figure as SVG that takes its text colour from the page.

    Args:
        draw: the figure, made inside :func:`style`.
        name: of the picture; makes ids in it unlike those of others on the page.
    """
    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        draw.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    # clip paths and markers are referred to by id, which are the same in every figure
    prefix = re.sub(r"\W+", "-", name)
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", drawn)
    drawn = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', drawn)
    head, rest = drawn.split(">", 1)
    # sized by the page: only the view box is kept
    return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + ">" + rest


def style() -> AbstractContextManager[None]:
    """A context for making figures: transparent, in the page's ink."""
    return matplotlib.rc_context(_STYLE)


def unbroken(cell: str) -> str:
    """A table's cell in which no line break divides an interval or a p-value."""
    return re.sub(r"\[[^\]]*\]|p = \S+", lambda m: m[0].translate(_NO_BREAK), cell)


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["raw"] = Markup
    environment.filters["unbroken"] = unbroken
    template = environment.from_string(
        (files("poscon") / "reports" / "page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(title=title, subtitle=subtitle, sections=sections)
