"""``poscon align``: the arguments, and what is printed."""

from typing import Annotated

import typer

from poscon.cli.output import say


def align(
    store: Annotated[str, typer.Argument(help="Folder of the prepared store.")],
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Decides which volumes are compared, where there are more than a hundred. "
            "Default: 0.",
            show_default=False,
        ),
    ] = 0,
) -> None:
    """Learn positions in the anatomy from the images, for scans that begin and end anywhere.

    Writes the positions into the manifest of the store. A picture and the list of volumes that run
    the other way lie beside it.
    """
    from poscon.commands import align as module

    for line in module.align(store, seed=seed).lines():
        say(line)
