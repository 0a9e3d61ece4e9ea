"""``poscon evaluate``: the arguments, and what is printed."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import (
    Channel,
    IgnoreLabel,
    Json,
    LabelledSlices,
    Labels,
    Layout,
    OnGap,
    Series,
    SourceSpacing,
    triple,
    whole_or_word,
)
from poscon.cli.output import print_json, show
from poscon.errors import NotWritten, PartlyDone


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of label maps.")],
    references: Annotated[
        Path, typer.Argument(help="A label map, a folder of them, or a labelled data set.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes the results to FILE.json, to FILE.csv, or to both for FILE. "
            "Default: nothing is written."
        ),
    ] = None,
    layout: Layout = None,
    channel: Channel = None,
    on_gap: OnGap = None,
    series: Series = None,
    labels: Labels = None,
    ignore_label: IgnoreLabel = None,
    labelled_slices: LabelledSlices = None,
    source_spacing: SourceSpacing = None,
    nsd_tolerance: Annotated[
        float,
        typer.Option(
            metavar="MM",
            help="Distance up to which surfaces agree, for the normalised surface Dice (NSD).",
        ),
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Measure Dice, HD95, ASSD, NSD, volumes and first and last slices, per case and class."""
    from poscon.commands import evaluate as module
    from poscon.evaluation.writing import evaluation_record, summary_table

    incomplete = None
    try:
        evaluation = module.evaluate(
            predictions,
            references,
            out,
            layout=layout,
            channel=whole_or_word(channel),
            on_gap=on_gap,
            series=series,
            labels=labels,
            ignore_label=ignore_label,
            labelled_slices=labelled_slices,
            source_spacing=triple("--source-spacing", source_spacing),
            nsd_tolerance=nsd_tolerance,
        )
    except (NotWritten, PartlyDone) as error:
        evaluation, incomplete = error.result, error
    if as_json:
        print_json(evaluation_record(evaluation))
    else:
        show(summary_table(evaluation))
    if incomplete is not None:
        raise incomplete
