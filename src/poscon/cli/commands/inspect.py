"""``poscon inspect``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import Json, Store
from poscon.cli.output import print_json, say, show


def inspect(
    store: Store,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Where the contact sheet goes; the table of cases is written beside it. "
            "Default: STORE/contact_sheet.png.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what is in a store and what looks odd, and draw a contact sheet."""
    from poscon.commands import inspect as module

    inspection = module.inspect(store, out)
    if as_json:
        print_json(module.inspection_record(inspection))
        return
    show(*module.inspection_tables(inspection))
    pictures = [inspection.contact_sheet, inspection.labelled_picture]
    say(f"pictures: {', '.join(str(picture) for picture in pictures if picture is not None)}")
