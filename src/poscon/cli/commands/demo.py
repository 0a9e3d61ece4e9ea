"""``poscon demo``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.output import say, show


def demo(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder to write. A demo that is in it is continued."),
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the synthetic scans and the training.")
    ] = 0,
    modality: Annotated[
        str, typer.Option(help="What the synthetic scans look like: MR or CT.")
    ] = "MR",
) -> None:
    """Do the main job on synthetic scans: pre-train, choose what to label, fine-tune, evaluate."""
    from poscon.commands import demo as module

    result = module.demo(out, seed=seed, modality=modality)
    show(*module.demo_tables(result))
    say(f"chosen slices: {result.suggestion}")
    say(f"predictions: {result.picture}")
