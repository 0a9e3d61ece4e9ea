"""What is printed: lines, tables, JSON and listings. Results go to stdout, notes to stderr."""

import sys
from typing import TYPE_CHECKING

from poscon.errors import PosconError, harmless

if TYPE_CHECKING:
    from poscon.listings import Listing


def say(text: str) -> None:
    sys.stdout.write(f"{harmless(text)}\n")


def show(*renderables: object) -> None:
    """Print tables of Rich, one below the other."""
    from poscon.progress import HarmlessConsole

    HarmlessConsole().print(*renderables, sep="\n")


def print_json(content: object) -> None:
    from poscon.files import json_text

    sys.stdout.write(json_text(content))


def print_text(text: str, as_json: bool) -> None:
    """Print a recipe or a plan as it was written. JSON would lose its comments.

    Raises:
        PosconError: JSON is wanted.
    """
    if as_json:
        raise PosconError("--json: no effect with a name, whose file is printed; leave it out")
    sys.stdout.write(text)


def print_listing(listing: "Listing", as_json: bool) -> None:
    """Print a listing as one table, or one for each kind; say which plug-ins cannot be used."""
    from rich.markup import escape
    from rich.table import Table

    for problem in listing.problems:
        sys.stderr.write(f"note: {harmless(' '.join(problem.split()))}\n")
    if as_json:
        print_json(listing.rows)
        return
    tables: dict[str, Table] = {}
    for row in listing.rows:
        cells = dict(row)
        kind = cells.pop("kind", "")
        if kind not in tables:
            tables[kind] = Table(*cells, title=kind or None, title_justify="left")
        tables[kind].add_row(*map(escape, cells.values()))
    show(*tables.values())
