"""``poscon report``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.output import say


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that poscon compare, pretrain or finetune wrote.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="File to write; an earlier one is replaced. Default: FOLDER/report.html.",
        ),
    ] = None,
) -> None:
    """Write one HTML file that shows what was done, how far to trust it, and what came out."""
    from poscon.reports import report as module

    say(f"report: {module.report(folder, out)}")
