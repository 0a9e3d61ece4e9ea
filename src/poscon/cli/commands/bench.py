"""``poscon bench``: the arguments, and what is printed."""

from typing import Annotated

import typer

from poscon.cli.options import Device, Json, Recipe, Set
from poscon.cli.output import print_json, show


def bench(
    store: Annotated[
        str | None,
        typer.Argument(help="Prepared store. Default: synthetic scans that poscon draws."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pre-training method (see poscon methods). Default: that of the recipe, else pcl."
        ),
    ] = None,
    recipe: Recipe = None,
    settings: Set = None,
    device: Device = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long to measure, in seconds, roughly.")
    ] = 90,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine pre-trains, where the time goes, and what would help."""
    from poscon.commands import bench as module

    result = module.bench(
        store,
        method=method,
        recipe=recipe,
        settings=settings or (),
        device=device,
        seconds=seconds,
    )
    if as_json:
        print_json(module.bench_record(result))
    else:
        show(*module.bench_tables(result))
