"""``poscon suggest``: the arguments, and what is printed."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import Device, Exclude, Series, Store
from poscon.cli.output import say


def suggest(
    store: Store,
    out: Annotated[Path, typer.Argument(help="Folder to write, so it must be new.")],
    budget: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of slices, or subjects, to choose.")
    ],
    unit: Annotated[str, typer.Option(help="What is chosen: slice or subject.")] = "slice",
    strategy: Annotated[
        str | None,
        typer.Option(help="How to choose (see poscon methods). Default: spread."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Takes the encoder of this pre-training run. Some strategies need one; for the "
            "others it only draws a map. Default: none.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Takes the model of this fine-tuning run. Some strategies need one; its "
            "predictions are put into the label maps. Default: none.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that the store was prepared from. Label maps to fill in are written for "
            "its scans. Default: none are written.",
        ),
    ] = None,
    series: Series = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="V",
            help="Value of the label maps for what is not labelled. Default: as the layout says, "
            "else 255.",
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Chooses from the cases or subjects that this file names. Default: all.",
        ),
    ] = None,
    exclude: Exclude = None,
    position: Annotated[
        str,
        typer.Option(help="Kind of position: relative, physical, or learned (by poscon align)."),
    ] = "relative",
    seed: Annotated[int, typer.Option(min=0, help="Decides every random choice.")] = 0,
    device: Device = None,
) -> None:
    """Choose which slices or subjects to label next, and write the files to label them in."""
    from poscon.commands import suggest as module

    suggestion = module.suggest(
        store,
        out,
        budget=budget,
        unit=unit,
        strategy=strategy,
        init=init,
        model=model,
        source=source,
        series=series,
        ignore_label=ignore_label,
        cases=cases,
        exclude=exclude,
        position=position,
        seed=seed,
        device=device,
    )
    subjects = {each.subject for each in suggestion.slices}
    say(f"{len(suggestion.slices)} slice(s) of {len(subjects)} subject(s): {suggestion.table}")
    say(f"picture: {suggestion.picture}")
    if suggestion.label_maps:
        maps = out / module.LABEL_MAPS
        say(f"{len(suggestion.label_maps)} label map(s) to fill in: {maps}")
        if suggestion.ranges is not None:
            say(f"where structures begin and end, to fill in: {suggestion.ranges}")
        back = ["poscon", "label", store, str(maps), "--suggestion", str(suggestion.table)]
        if suggestion.ranges is None:
            say('label needs the names of what you draw, such as --labels "1=liver,2=spleen"')
        say(f"then give them back: {shlex.join(back)}")
    else:
        say("no label maps to fill in; --source DIR writes them")
