"""``poscon label``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import LabelledSlices, Ranges, names_or_file
from poscon.cli.output import say


def label(
    store: Annotated[str, typer.Argument(help="Folder of the prepared store.")],
    label_maps: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of label maps, each with the name of its case, or of folders with one "
            "mask per organ. Default: only --ranges or --remove."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="V=NAME,...",
            help="Says what label values mean, such as 1=RV,2=MYO,3=LV. Default: as the store "
            "says, else as labels.json beside the label maps, or the names of the masks, say.",
        ),
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="V",
            help="Label value of voxels that are not labelled. Default: as labels.json beside the "
            "label maps says, else every voxel is labelled.",
        ),
    ] = None,
    labelled_slices: LabelledSlices = None,
    suggestion: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of poscon suggest. Says which of its slices are not labelled, and which "
            "show no structure. Takes a slice of it without structure out of the store where the "
            "label map says that it is not labelled. Default: nothing is compared or taken out.",
        ),
    ] = None,
    ranges: Ranges = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Takes the labels of this case or subject out of the store, or those of a file "
            "of names. It may be repeated. Default: no label is taken out.",
        ),
    ] = None,
) -> None:
    """Add label maps to a prepared store, or remove labels, without reading the scans again.

    What a label map does not label keeps the labels that it has.
    """
    from poscon.commands import label as module

    labelling = module.label(
        store,
        label_maps,
        labels=labels,
        ignore_label=ignore_label,
        labelled_slices=labelled_slices,
        suggestion=suggestion,
        ranges=ranges,
        remove=names_or_file(remove),
    )
    for line in labelling.lines():
        say(line)
