"""``poscon export``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.output import say


def export(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run: the model of a fine-tuning, or an encoder.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write. It must not exist.")],
    to: Annotated[
        str,
        typer.Option(
            help="Format: torch (safetensors and a loader), onnx, monai (a Bundle), or nnunet.",
        ),
    ],
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of the weights, for the model card, such as CC-BY-4.0. Default: the card "
            "says that it is not stated."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Results of poscon evaluate, for the model card. Default: none.",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(min=1, help="Version of ONNX' operators, for --to onnx only. Default: 18."),
    ] = None,
) -> None:
    """Write a trained network for other programs, with a model card."""
    from poscon.commands import export as module

    folder = module.export(run, out, to=to, licence=licence, results=results, opset=opset)
    say(f"exported: {folder}")
