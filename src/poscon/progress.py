"""What a long job shows on stderr: the one progress bar, and the files that cannot be used."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from poscon.errors import PosconError

console = Console(stderr=True, highlight=False)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with count, elapsed and remaining time; silent where stderr is no terminal."""
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
        yield progress


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
