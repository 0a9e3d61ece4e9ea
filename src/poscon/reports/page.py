"""One HTML page of sections. It needs no network, is dark or light, and can be read on a phone."""

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

from poscon.pictures.plain import PLAIN

INK = "#010203"
"""It stands for the colour of the page's text. Text and axes drawn in it take that colour."""
GRID = "#8f8f8f"
_NO_BREAK = str.maketrans({" ": "\u00a0", "-": "\u2011"})

_STYLE: Any = {
    **PLAIN,
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
    """A table of text cells. The first row has the headings."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure. Screen readers read ``says`` instead of the text in it.

    Attributes:
        svg: the picture as :func:`svg` made it.
        says: description of the picture.
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
        pngs: each slice as a PNG in base64.
        legend: (colour, name) of each outlined class.
    """

    title: str
    pngs: Sequence[str]
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: text, then pictures, then volumes, then tables. Each may be empty.

    Attributes:
        paired: whether two successive pictures belong together. They stand side by side where
            there is room.
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
    """Turn a figure into SVG that takes its text colour from the page.

    Args:
        draw: the figure, made inside :func:`style`.
        name: name of the picture. It makes the ids in the picture unique on the page.
    """
    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        draw.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    # clip paths and markers are referred to by ids, and every figure has the same ids
    prefix = re.sub(r"\W+", "-", name)
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", drawn)
    drawn = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', drawn)
    head, rest = drawn.split(">", 1)
    # the page decides the size, so only the view box is kept
    return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + ">" + rest


def style() -> AbstractContextManager[None]:
    """A context in which figures are transparent and have the page's text colour."""
    return matplotlib.rc_context(_STYLE)


def unbroken(cell: str) -> str:
    """Replace spaces in a table's cell so that no line break divides an interval or a p-value."""
    return re.sub(r"\[[^\]]*\]|p = \S+", lambda m: m[0].translate(_NO_BREAK), cell)


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Make the page as HTML."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["raw"] = Markup
    environment.filters["unbroken"] = unbroken
    template = environment.from_string(
        (files("poscon") / "reports" / "page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(title=title, subtitle=subtitle, sections=sections)
