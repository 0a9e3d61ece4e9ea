"""``poscon predict``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import (
    Channel,
    Device,
    Layout,
    OnGap,
    Series,
    SourceSpacing,
    triple,
    whole_or_word,
)
from poscon.cli.output import say


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.")],
    input: Annotated[
        Path,
        typer.Argument(help="A scan, a folder of scans in any layout, or a CSV file of paths."),
    ],
    output: Annotated[
        Path, typer.Argument(help="The label map to write, or the folder to write label maps to.")
    ],
    layout: Layout = None,
    channel: Channel = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Segments the cases or subjects of a folder that this file names. Default: all.",
        ),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Removes a class outside its range. The CSV file has the columns case, class, "
            "first and last: the first and the last slice, numbered from 0 as in the scan's file. "
            "Default: nothing is removed.",
        ),
    ] = None,
    on_gap: OnGap = None,
    series: Series = None,
    source_spacing: SourceSpacing = None,
    average_views: Annotated[
        bool,
        typer.Option(
            "--average-views",
            help="Averages over nine turned and zoomed views of each slice. Takes ten times as "
            "long.",
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="seg",
            help="Writes each label map of a DICOM series as a DICOM-SEG object. It names the "
            "patient and the study of the series, as an archive needs them. Default: NIfTI for "
            "DICOM series, else the format of the scan.",
        ),
    ] = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keeps the label maps that are there; adds the rest.")
    ] = False,
) -> None:
    """Segment scans; every label map lies exactly on its scan."""
    from poscon.commands import predict as module

    written = module.predict(
        run,
        input,
        output,
        layout=layout,
        channel=whole_or_word(channel),
        cases=cases,
        ranges=ranges,
        on_gap=on_gap,
        series=series,
        source_spacing=triple("--source-spacing", source_spacing),
        average_views=average_views,
        to=to,
        device=device,
        resume=resume,
    )
    say(f"{len(written)} label map(s) in {written[0] if len(written) == 1 else output}")
