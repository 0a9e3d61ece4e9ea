"""``poscon prepare``: the arguments, and what is printed."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import (
    Address,
    Channel,
    Engine,
    IgnoreLabel,
    LabelledSlices,
    Labels,
    Layout,
    Modality,
    OnGap,
    Ranges,
    Recipe,
    Series,
    Set,
    SourceSpacing,
    number_or_word,
    triple,
    whole_or_word,
)
from poscon.cli.output import say


def prepare(
    source: Annotated[
        Path, typer.Argument(help="Folder of scans in any known layout, or CSV file of paths.")
    ],
    store: Annotated[str, typer.Argument(help="Folder of the store to write.")],
    layout: Layout = None,
    plane: Annotated[
        str | None,
        typer.Option(
            help="Plane of the slices: axial, coronal, sagittal, or auto (as acquired). "
            "Default: auto."
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            help="Resamples the slices to this pixel size, in mm; auto takes the median of the "
            "data set, native keeps each scan as it is. Default: that of the layout, else auto."
        ),
    ] = None,
    source_spacing: SourceSpacing = None,
    modality: Modality = None,
    labels: Labels = None,
    ignore_label: IgnoreLabel = None,
    labelled_slices: LabelledSlices = None,
    ranges: Ranges = None,
    channel: Channel = None,
    reverse: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Turns the slice order of the cases or subjects that this file names. "
            "Default: none is turned.",
        ),
    ] = None,
    on_gap: OnGap = None,
    case_name: Annotated[
        str | None,
        typer.Option(
            metavar="KEYWORD",
            help="Names the cases of DICOM series by this attribute, such as PatientID, and so "
            "writes it. Default: they are numbered, and nothing says who was scanned.",
        ),
    ] = None,
    series: Series = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes. Default: one for a small data set, else one per core.",
        ),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    recipe: Recipe = None,
    settings: Set = None,
) -> None:
    """Read scans in any known layout and write the store that training reads.

    An interrupted command goes on where it was when it is run again.
    """
    from poscon.commands import prepare as module
    from poscon.store.store import sparse_line
    from poscon.store.weak_labels import ranges_line

    opened = module.prepare(
        source,
        store,
        layout=layout,
        plane=plane,
        spacing=number_or_word(spacing),
        source_spacing=triple("--source-spacing", source_spacing),
        modality=modality,
        labels=labels,
        ignore_label=ignore_label,
        labelled_slices=labelled_slices,
        ranges=ranges,
        channel=whole_or_word(channel),
        reverse=reverse,
        on_gap=on_gap,
        case_name=case_name,
        series=series,
        processes=processes,
        engine=engine,
        address=address,
        recipe=recipe,
        settings=settings or (),
    )
    subjects = len({case.subject for case in opened.cases})
    say(
        f"{len(opened.cases)} cases of {subjects} subjects, layout {opened.manifest.layout}, "
        f"in {store}"
    )
    labelled = sum(case.labelled for case in opened.cases)
    say(
        f"{labelled} of {len(opened.cases)} cases have a label map"
        + (f"; classes {', '.join(opened.class_names)}" if labelled else "")
    )
    for line in (sparse_line(opened.cases), ranges_line(opened.cases)):
        if line is not None:
            say(line)
    for note in opened.manifest.notes:
        say(f"note: {note}")
    say(f"look at it with: poscon inspect {shlex.quote(str(store))}")
