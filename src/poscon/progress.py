"""What a long job shows on stderr: the one progress bar, and the files that cannot be used."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from poscon.errors import PosconError, harmless


class HarmlessConsole(Console):
    """Prints every text, also in tables, without what commands a terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)


console = HarmlessConsole(stderr=True, highlight=False)


LOG_SECONDS = 30.0
"""Between two lines in a log."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with count, elapsed and remaining time; now and then a line where there is no terminal.

    So a log shows a sign of life in every minute, also where one scan takes several.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        if console.is_terminal:
            yield progress
            return
        ended = threading.Event()
        log = threading.Thread(target=_log, args=(progress, ended), daemon=True)
        log.start()
        try:
            yield progress
        finally:
            ended.set()
            log.join()


def _log(progress: Progress, ended: threading.Event) -> None:
    """Say how far the tasks are, until the end."""
    begun = time.monotonic()
    while not ended.wait(LOG_SECONDS):
        elapsed = timedelta(seconds=round(time.monotonic() - begun))
        say_lines(
            f"{task.description}: {task.completed:g} of {task.total:g} after {elapsed}"
            for task in progress.tasks
            if task.total is not None and not task.finished
        )


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing of a job that is part of another."""
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False


def say_lines(lines: Iterable[str]) -> None:
    """Print lines on stderr as they are."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def raise_first(errors: Sequence[str]) -> None:
    """Name every file that cannot be used, one per line. The first is in the error.

    Raises:
        PosconError: there is such a file.
    """
    if len(errors) > 1:
        for message in errors:
            console.print(f"not usable: {message}", soft_wrap=True, markup=False)
        raise PosconError(f"{errors[0]} (and {len(errors) - 1} more file(s) with errors)")
    if errors:
        raise PosconError(errors[0])
