"""``poscon view`` shows scans with references and predictions on a local page."""

import os
import sys
import webbrowser
from pathlib import Path

from poscon.arguments import checked
from poscon.viewer.resources import resources
from poscon.viewer.server import ViewServer
from poscon.viewer.sources import collect


@checked
def view(
    source: Path | str,
    *,
    labels: Path | str | None = None,
    predictions: Path | str | None = None,
    scans: Path | str | None = None,
    results: Path | str | None = None,
    layout: str | None = None,
    on_gap: str | None = None,
    series: str | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    port: int | None = None,
    no_browser: bool = False,
) -> None:
    """Show scans in three planes, with references and predictions, until Ctrl-C.

    The page is served on this machine only. Nothing is written, and nothing is fetched.

    Args:
        source: a scan; a folder of scans in any known layout; a CSV file of paths; a folder of
            predictions; a store; or a run, whose cases are shown as the store has them.
        labels: references of scans: a label map, a folder of label maps named by case, or a data
            set. None: those of the data set.
        predictions: predicted label maps of ``source``: a label map, or a folder of them. None:
            those of a run of a comparison, else none.
        scans: the scans of a folder of predictions.
        results: what ``poscon evaluate`` wrote of the predictions, JSON or CSV. The worst cases
            come first. None: that of a run of a comparison, else none.
        layout: layout of a folder of scans; None detects it.
        on_gap: what to do where slices of a DICOM series are missing, see
            :func:`poscon.commands.prepare.prepare`.
        series: which DICOM series are shown, as for `prepare`; None: all.
        source_spacing: voxel size in mm along the axes of the files. It replaces that of the
            headers.
        port: port to listen on; None: a free one.
        no_browser: whether to leave the browser alone. Else it opens the page, where there is a
            screen.

    Raises:
        PosconError: there is nothing to show, an option has no effect, the only case cannot be
            read, or the port cannot be used.
    """
    collection = collect(
        source,
        labels=_path(labels),
        predictions=_path(predictions),
        scans=_path(scans),
        results=_path(results),
        layout=layout,
        on_gap=on_gap,
        series=series,
        spacing=source_spacing,
    )
    table = resources(collection)
    if len(collection.cases) == 1:  # then nothing else could be shown
        for name, resource in table.items():
            if name.startswith("case-"):
                resource.content()
    with ViewServer(table, port) as server:
        n = len(collection.cases)
        sys.stdout.write(f"{n} case(s) at {server.url}\nCtrl-C ends it\n")
        sys.stdout.flush()
        if not no_browser and _has_screen():
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


def _path(place: Path | str | None) -> Path | None:
    return None if place is None else Path(place)


def _has_screen() -> bool:
    """Whether a browser has a window to open. A browser in the terminal would take it over."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
