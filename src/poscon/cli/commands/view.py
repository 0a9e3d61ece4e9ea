"""``poscon view``: the arguments."""

from pathlib import Path
from typing import Annotated

import typer

from poscon.cli.options import Layout, OnGap, Series, SourceSpacing, triple


def view(
    source: Annotated[
        str,
        typer.Argument(
            help="A scan, a folder of scans, a CSV file of paths, a folder of predictions, a "
            "prepared store, or a run."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Reference label maps of the scans: a file, a folder of files named by case, or "
            "a data set. Default: those of the data set.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Predicted label maps of SOURCE. Default: those in a run of a comparison.",
        ),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="The scans, where SOURCE is a folder of predictions."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Results of poscon evaluate, JSON or CSV: the worst cases come first. "
            "Default: those in a run of a comparison.",
        ),
    ] = None,
    layout: Layout = None,
    on_gap: OnGap = None,
    series: Series = None,
    source_spacing: SourceSpacing = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the page. Default: a free one."),
    ] = None,
    no_browser: Annotated[
        bool,
        typer.Option(
            "--no-browser", help="Opens no browser. Default: one is opened where there is a screen."
        ),
    ] = False,
) -> None:
    """Show scans, references and predictions in three planes, on a local page."""
    from poscon.commands import view as module

    module.view(
        source,
        labels=labels,
        predictions=predictions,
        scans=scans,
        results=results,
        layout=layout,
        on_gap=on_gap,
        series=series,
        source_spacing=triple("--source-spacing", source_spacing),
        port=port,
        no_browser=no_browser,
    )
