"""CSV tables that a user writes, by hand or in a spreadsheet program."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from poscon.errors import PosconError

SEPARATORS = (",", ";", "\t")
"""What may stand between two fields. A spreadsheet program writes the second in many countries."""


def read_table(
    path: Path, needed: Sequence[str], optional: Sequence[str] | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a table, without rows that have no text.

    The names of the columns may be in upper case, and fields may have spaces around them. Empty
    columns at the end, which spreadsheet programs write, are passed over.

    Args:
        path: the file.
        needed: the columns that it has.
        optional: the columns that it may have; None: any others, which are passed over.

    Returns:
        The place of each row, for messages, and its text in each column.

    Raises:
        PosconError: the file cannot be read, has other columns or one of them twice, or a row has
            not as many fields as there are columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PosconError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PosconError(f"{path}: no text in UTF-8; save it as CSV in UTF-8") from error
    try:
        lines = _lines(text)
        _, heading = next(lines, (1, []))
        columns = [name.lower() for name in heading]
        _check_columns(path, columns, needed, optional)
        rows = []
        for number, fields in lines:
            where = f"{path}, line {number}"
            if len(fields) > len(columns) and not any(fields[len(columns) :]):
                fields = fields[: len(columns)]
            if len(fields) != len(columns):
                raise PosconError(
                    f"{where}: {len(fields)} fields, but {len(columns)} columns; write one for "
                    "each column, in quotes if it has a comma"
                )
            rows.append((where, dict(zip(columns, fields, strict=True))))
    except csv.Error as error:
        raise PosconError(f"{path}: cannot be read as CSV ({error})") from error
    return rows


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that have any text, by number; the first without the empty fields at its end."""
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = next((mark for mark in SEPARATORS if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    is_first = True
    for fields in reader:
        fields = [field.strip() for field in fields]
        if not any(fields):
            continue
        while is_first and not fields[-1]:
            fields.pop()
        is_first = False
        yield reader.line_num, fields


def _check_columns(
    path: Path, columns: Sequence[str], needed: Sequence[str], optional: Sequence[str] | None
) -> None:
    known = ",".join([*needed, *(optional or ())])
    for name in needed:
        if name not in columns:
            raise PosconError(f"{path}: has no column {name!r}; its first line should be {known!r}")
    for name in columns:
        if columns.count(name) > 1:
            raise PosconError(f"{path}: the column {name!r} is there twice; remove one")
        if optional is not None and name not in (*needed, *optional):
            raise PosconError(
                f"{path}: has a column {name[:40]!r} that poscon does not know; its first line "
                f"should be {known!r}"
            )
