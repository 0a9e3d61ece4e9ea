"""``poscon pretrain``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import Device, Exclude, Logger, Recipe, Resume, Run, Seed, Set, Store
from poscon.cli.output import say


def pretrain(
    store: Store,
    run: Run,
    method: Annotated[
        str | None,
        typer.Option(
            help="Pre-training method (see poscon methods). Default: that of the recipe, else pcl."
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Uses the cases or subjects that this file names. Default: all."
        ),
    ] = None,
    exclude: Exclude = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="How often every slice is seen. Default: that of the recipe, else 10."
        ),
    ] = None,
    seed: Seed = None,
    recipe: Recipe = None,
    settings: Set = None,
    logger: Logger = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Pre-train an encoder on a store's slices, without labels."""
    from poscon.commands import pretrain as module

    path = module.pretrain(
        store,
        run,
        method=method,
        cases=cases,
        exclude=exclude,
        epochs=epochs,
        seed=seed,
        recipe=recipe,
        settings=settings or (),
        logger=logger,
        device=device,
        resume=resume,
    )
    say(f"encoder: {path}")
