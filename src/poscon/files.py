"""Writing so that a file or folder is complete or absent, and a full disk is one clear line."""

import contextlib
import csv
import fcntl
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from poscon.errors import COMMANDS, PosconError, harmless

LOCK = ".lock"
"""In a folder in which a command is at work."""

FORMULA = "=+@-"
"""With one of these as its first character, a cell is a formula for a spreadsheet program."""

UNSAFE = re.compile(f"[\t\n]|{COMMANDS.pattern}")
"""Characters that no name of a case, a subject or a folder has in what poscon writes."""

WRITING = ".writing-"
"""How the name of a folder begins in which something is written that is not complete yet."""


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Write ``path``, a file or a folder, at a place beside it, and put it in place at the end.

    Missing parent folders are made. If anything fails, nothing of it stays. What a killed process
    left of ``path`` is removed.

    Yields:
        Where to write; of the same name, in a folder that is made for it.

    Raises:
        PosconError: the disk is full, or the place cannot be written.
    """
    _check_links(path)
    scratch, lock = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch, lock = _scratch(path)
        yield scratch / path.name
        # .mhd has its voxels in a file beside it: that first, the file that was asked for last
        for entry in sorted(scratch.iterdir(), key=lambda entry: entry.name == path.name):
            if entry.name != LOCK:
                entry.replace(path.parent / entry.name)
    except OSError as error:
        reason = error.strerror or str(error)  # NumPy raises without errno when a disk is full
        raise PosconError(
            f"{path}: cannot be written ({reason}); is the disk full, or the place not writable?"
        ) from error
    finally:
        if scratch is not None:
            _remove(scratch)
        if lock is not None:
            os.close(lock)


def _scratch(path: Path) -> tuple[Path, int | None]:
    """An empty folder beside ``path``, and the descriptor that holds it while its process lives.

    That of a killed process is taken over. Where the file system has no locks nobody can know
    whether a process lives, and each has a folder of its own.
    """
    prefix = f"{WRITING}{path.name[:32]}-"  # a name may be as long as the file system takes
    for number in count():
        scratch = path.parent / f"{prefix}{number}"
        try:
            found = _locked(scratch)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.rmdir()
            raise
        if found is None:
            continue
        lock, held = found
        if held:
            _empty(scratch)
            return scratch, lock
        os.close(lock)
        _remove(scratch)
        break
    return Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent)), None


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, and nothing that is written."""
    for scratch in folder.glob(f"{WRITING}*"):
        with contextlib.suppress(OSError):
            if (found := _locked(scratch)) is None:
                continue
            lock, held = found
            if held:
                _remove(scratch)
            os.close(lock)


def _remove(scratch: Path) -> None:
    """Remove a folder; its lock goes last, for then another process may take the folder over."""
    with contextlib.suppress(OSError):
        _empty(scratch)
        (scratch / LOCK).unlink(missing_ok=True)
        scratch.rmdir()


def _empty(folder: Path) -> None:
    """Remove everything in a folder but its lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder against a second command; it is made, and removed again if it stays empty.

    The system lets the lock go whenever the process ends. On a file system that has no locks
    nothing is held. What killed processes left half-written in the folder is removed.

    Args:
        folder: where the command writes.
        command: its name, for the message.

    Raises:
        PosconError: another command is at work there, or the folder cannot be written.
    """
    _check_links(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        found = _locked(folder)
    except OSError as error:
        raise PosconError(f"{folder}: cannot be written ({error.strerror})") from error
    if found is None:
        raise PosconError(
            f"{folder}: another poscon {command} is at work there; wait until it has ended, then "
            "look at what it left"
        )
    lock, held = found
    try:
        if held:
            sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        os.close(lock)
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for place in made:
                place.rmdir()


def _locked(folder: Path) -> tuple[int, bool] | None:
    """A descriptor of the folder's lock, and whether it is held; None: another process has it.

    It is not held where the file system has no locks.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process has removed the folder
            continue
        except FileExistsError:  # the same, while it was looked at; or it is no folder
            if os.path.lexists(folder) and not folder.is_dir():
                raise
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:
            return lock, False
        # whoever had the lock before may have removed the file, and another made it anew
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return lock, True
        os.close(lock)


def check_writable(place: Path) -> None:
    """Refuse a file or folder that could not be written, before the work whose result goes there.

    Args:
        place: the file or folder. Folders above it may be missing.

    Raises:
        PosconError: it lies below a link to nothing, or the first folder above it that is there is
            no folder or cannot be written.
    """
    _check_links(place)
    there = next(above for above in place.absolute().parents if os.path.exists(above))
    if not os.path.isdir(there):
        raise PosconError(f"{there}: cannot be written into (it is no folder); name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PosconError(f"{there}: cannot be written into; name another place")


def _check_links(place: Path) -> None:
    """Refuse a place that is, or lies below, a link to nothing; no folder can be made there.

    Raises:
        PosconError: there is such a link.
    """
    for path in (place, *place.parents):
        if os.path.islink(path) and not os.path.exists(path):
            raise PosconError(
                f"{path}: cannot be written (it is a link to {path.readlink()}, which is not "
                "there); remove the link, or make what it leads to"
            )


def check_outside(output: Path, scans: Path) -> None:
    """Refuse to write among scans, where label maps would be taken for scans next time.

    Args:
        output: where the command writes.
        scans: the folder of the scans.

    Raises:
        PosconError: the output is that folder, or lies in it.
    """
    inside, outside = output.resolve(), scans.resolve()
    if inside.is_relative_to(outside):
        raise PosconError(
            f"{output}: is {'' if inside == outside else 'in '}the folder of the scans; choose an "
            "output outside it"
        )


def holds_nothing(folder: Path, besides: str = LOCK) -> bool:
    """Whether a folder has only a lock, what a killed process began to write, and ``besides``.

    Args:
        folder: the folder.
        besides: name of a file that may be there.
    """
    names = {entry.name for entry in folder.iterdir()} - {LOCK, besides}
    return all(name.startswith(WRITING) for name in names)


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or absent."""
    with complete(path) as part:
        # a name of a file that is not UTF-8 is escaped
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(name: str) -> str:
    """A name of a file or folder as text: bytes that are not UTF-8 become ``%F6`` and the like.

    Python has such bytes as surrogates, which no file format and no terminal takes.
    """
    # halves of characters that are no bytes of a name: JSON may have them
    name = re.sub("[\ud800-\udc7f\udd00-\udfff]", lambda found: f"%{ord(found[0]):04X}", name)
    raw = name.encode("utf-8", "surrogateescape")
    return re.sub(
        "[\udc80-\udcff]",
        lambda found: f"%{ord(found[0]) - 0xDC00:02X}",
        raw.decode("utf-8", "surrogateescape"),
    )


def json_text(content: Any) -> str:
    """Content as JSON for people and programs; NaN is an error, as JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def safe_name(name: str) -> str:
    """A name that was taken from a file or a folder, as it may stand in tables and on a terminal.

    As :func:`printable`. Characters that command a terminal become ``%1B`` and the like too, and so
    does a first character that makes a formula of a cell, ``=``, ``+``, ``-`` or ``@``. Letters
    with an accent are one character each (Unicode NFC), also in names that macOS has taken apart.
    """
    text = UNSAFE.sub(_percent, unicodedata.normalize("NFC", printable(name)))
    return re.sub(rf"^[{FORMULA}]", _percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def cell_of_path(path: str) -> str:
    """A path as it stands in a table: the same path, but never a formula.

    Characters that command a terminal are escaped.
    """
    return harmless(f"./{path}" if path[:1] in tuple(FORMULA) else path)


def markdown_cell(text: str) -> str:
    """A text in a cell of a table in Markdown: it adds no cell, no HTML, no code and no link."""
    return re.sub(r"[\\`|<]|\](?=\()", r"\\\g<0>", " ".join(text.split()))


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or is nested more deeply than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """What a JSON file of poscon's own says.

    Raises:
        PosconError: it cannot be read.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PosconError(f"{path}: damaged ({error}); remove it") from error


def whole_number(text: str) -> int | None:
    """The number that a field of a table states; None if it is no whole number from 0.

    A number of more than nine digits counts slices or steps of nothing, so it is none.
    """
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def read_csv(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file of poscon's own, as text.

    Args:
        path: the file.
        columns: the columns that it has at least.

    Raises:
        PosconError: it cannot be read, lacks a column, or a row has not as many fields as there
            are columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            absent = sorted(set(columns) - set(reader.fieldnames or ()))
    except (OSError, ValueError, csv.Error) as error:
        raise PosconError(f"{path}: damaged ({error}); remove it") from error
    if absent:
        raise PosconError(f"{path}: damaged (it has no column {absent[0]!r}); remove it")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise PosconError(f"{path}: damaged (row {number} has other columns); remove it")
    return rows
