"""``poscon finetune``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import (
    Device,
    Exclude,
    Logger,
    Recipe,
    Resume,
    Run,
    Seed,
    Set,
    Store,
    whole_or_word,
)
from poscon.cli.output import say


def finetune(
    store: Store,
    run: Run,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE",
            help="Starts from the weights of this pre-training run, or of a file: of poscon, of "
            "the published PCL (.pth), or of MONAI's BasicUNet. Default: random weights.",
        ),
    ] = None,
    labelled: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of labelled subjects to draw; --seed decides which. Default: all.",
        ),
    ] = None,
    labelled_slices: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE.csv",
            help="Number of labelled slices to draw from these subjects; --seed decides which. Or "
            "a CSV file that names them (columns case and slice, as in the store). Default: all.",
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Uses, or draws from, the labelled cases or subjects that this file names. "
            "Default: all labelled ones.",
        ),
    ] = None,
    exclude: Exclude = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Uses the cases or subjects that this file names without their labels, with a "
            "method that does so. Default: those that are not drawn as labelled.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measures the Dice of the cases or subjects that this file names during the "
            "training. Nothing is chosen by it. Default: none.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Fine-tuning method (see poscon methods). Default: that of the recipe, else "
            "fixmatch if at most 3 subjects are labelled and there are cases without labels, else "
            "supervised."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps, for any number of cases. Default: that of the recipe, else 2000.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Minutes that the training may take, in place of --iterations. The number of "
            "steps that fit is worked out from the speed of the first ones. Default: --iterations.",
        ),
    ] = None,
    seed: Seed = None,
    recipe: Recipe = None,
    settings: Set = None,
    logger: Logger = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Train a U-Net on a few labelled subjects, from a pre-trained encoder or at random."""
    from poscon.commands import finetune as module

    path = module.finetune(
        store,
        run,
        init=init,
        labelled=labelled,
        labelled_slices=whole_or_word(labelled_slices),
        cases=cases,
        exclude=exclude,
        unlabelled=unlabelled,
        validation=validation,
        method=method,
        iterations=iterations,
        minutes=minutes,
        seed=seed,
        recipe=recipe,
        settings=settings or (),
        logger=logger,
        device=device,
        resume=resume,
    )
    say(f"model: {path}")
