"""Names of cases or subjects, from a file or a list."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection
from pathlib import Path

from poscon.csv_tables import SEPARATORS
from poscon.errors import PosconError
from poscon.files import parse_json, printable, safe_name

Names = Path | str | Collection[str]
"""Names of cases or subjects: a file that has them, see :func:`read_names`, or a list, a tuple or a
set of them. A single text is a file."""


def names_place(source: Names) -> str:
    """What messages call the place that names come from."""
    return str(source) if isinstance(source, str | Path) else "the list of names"


def read_names(source: Names) -> list[str]:
    """Names of cases or subjects, from a file or from a list.

    Args:
        source: a text file with one name per line (``#`` starts a comment), a JSON file that holds
            a list, or ``FILE.json:KEY`` for the list under a key; ``FILE.csv:SPLIT`` for the
            subjects of a split of a table of paths; or a list, a tuple or a set.

    Raises:
        PosconError: the file cannot be read, there is no name, or a name is no text.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, list | tuple | set | frozenset):
            raise PosconError(f"{source!r}: give a file of names, or a list of names")
        for name in source:
            if not isinstance(name, str):
                raise PosconError(f"{names_place(source)}: {name!r} is no text")
        if not source:
            raise PosconError(f"{names_place(source)}: names no case")
        return sorted(source) if isinstance(source, set | frozenset) else list(source)
    if table := re.fullmatch(r"(.*\.csv):(.*)", str(source), re.DOTALL | re.IGNORECASE):
        from poscon.volumes.layouts.table import subjects_of  # it imports the scan libraries

        return subjects_of(Path(table[1]), table[2])
    file, _, key = str(source).partition(".json:")
    path = Path(f"{file}.json" if key else str(source))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PosconError(
            f"{path}: cannot read the list of names ({error.strerror}); give a text file with one "
            "name per line, or another file of names"
        ) from error
    if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in raw:
        raise PosconError(f"{path}: cannot read the list of names; save it as plain text in UTF-8")
    # a file name may be no UTF-8, and then neither is a list that names it
    text = printable(raw.removeprefix(BOM_UTF8).decode("utf-8", errors="surrogateescape"))
    if path.suffix != ".json":
        lines = (re.sub(r"#.*", "", line).strip() for line in text.splitlines())
        names = [line for line in lines if line]
        _check_no_table(path, names)
    else:
        try:
            content = parse_json(text)
        except ValueError as error:
            raise PosconError(f"{path}: not valid JSON ({error})") from error
        if key:
            if not isinstance(content, dict) or key not in content:
                known = ", ".join(content) if isinstance(content, dict) else "none, it is a list"
                raise PosconError(f"{path}: has no key {key!r}; its keys: {known}")
            content = content[key]
        if not isinstance(content, list) or not all(isinstance(n, str) for n in content):
            raise PosconError(f"{path}: expected a list of names; choose one with {path}:KEY")
        names = content
    if not names:
        raise PosconError(f"{path}: names no case")
    return [safe_name(name) for name in names]


def _check_no_table(path: Path, lines: list[str]) -> None:
    """Refuse a CSV file with several columns, whose lines would be taken for names.

    Raises:
        PosconError: it is one.
    """
    columns = re.split("|".join(SEPARATORS), lines[0].lower()) if lines else []
    if path.suffix.lower() != ".csv" or len(columns) < 2:
        return
    split = f"{path}:SPLIT for the subjects of one of its splits, or "
    raise PosconError(
        f"{path}: is a table; give {split if 'image' in columns else ''}a file with one name a line"
    )
