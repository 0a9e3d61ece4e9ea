"""CSV tables that a user writes, by hand or in a spreadsheet program."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from poscon.errors import PosconError

SEPARATORS = (",", ";", "\t")
"""What may stand between two fields. A spreadsheet program writes the second in many countries."""

Lines = list[tuple[int, list[str]]]
"""The lines of a table that have any text, by number, as fields without spaces around them."""


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
        columns, lines = _separated(text, needed)
    except csv.Error as error:
        raise PosconError(f"{path}: cannot be read as CSV ({error})") from error
    _check_columns(path, columns, needed, optional)
    known = [*needed, *(optional or ())]
    last = max((columns.index(name) for name in known if name in columns), default=-1)
    rows = []
    for number, fields in lines:
        if len(fields) > len(columns) and not any(fields[len(columns) :]):
            fields = fields[: len(columns)]
        if optional is None and last < len(fields):  # what is missing is passed over anyway
            fields = fields + [""] * (len(columns) - len(fields))
        where = f"{path}, line {number}"
        if len(fields) != len(columns):
            raise PosconError(
                f"{where}: {len(fields)} fields, but {len(columns)} columns; write one for "
                "each column, in quotes if it has a comma"
            )
        rows.append((where, dict(zip(columns, fields, strict=True))))
    return rows


def _separated(text: str, needed: Sequence[str]) -> tuple[list[str], Lines]:
    """The names of the columns in lower case, and the lines below them.

    The separator is the first by which the needed columns are there, else a comma.

    Raises:
        csv.Error: the text is no CSV by that separator.
    """
    stated = re.match(r"sep=(.)\r?\n", text)  # a line of Excel's
    if stated:
        text = "\n" + text[stated.end() :]
    for separator in [stated[1]] if stated else SEPARATORS:
        try:
            columns, lines = _lines(text, separator)
        except csv.Error:
            continue
        if set(needed) <= set(columns):
            return columns, lines
    return _lines(text, ",")


def _lines(text: str, separator: str) -> tuple[list[str], Lines]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    lines = [(number, fields) for number, fields in found if any(fields)]
    if not lines:
        return [], []
    heading = lines[0][1]
    while not heading[-1]:
        heading.pop()
    return [name.lower() for name in heading], lines[1:]


def _check_columns(
    path: Path, columns: Sequence[str], needed: Sequence[str], optional: Sequence[str] | None
) -> None:
    may = f", and may name {','.join(optional)!r}" if optional else ""
    first_line = f"its first line should name {','.join(needed)!r}{may}"
    for name in needed:
        if name not in columns:
            raise PosconError(f"{path}: has no column {name!r}; {first_line}")
    for name in (*needed, *(optional or ())):
        if columns.count(name) > 1:
            raise PosconError(f"{path}: the column {name!r} is there twice; remove one")
    for name in columns if optional is not None else ():
        if name not in (*needed, *(optional or ())):
            called = repr(name[:40]) if name else "without a name"
            raise PosconError(
                f"{path}: has a column {called} that poscon does not know; {first_line}"
            )
