"""Writing so that a file or folder is complete or absent, and a full disk is one clear line."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poscon.errors import PosconError


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Write ``path``, a file or a folder, at a place beside it, and put it in place at the end.

    Missing parent folders are made. If anything fails, nothing of it stays.

    Yields:
        Where to write; of the same name, in a folder that is made for it.

    Raises:
        PosconError: the disk is full, or the place cannot be written.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name may be as long as the file system takes
        scratch = Path(tempfile.mkdtemp(prefix=f".writing-{path.name[:32]}-", dir=path.parent))
        yield scratch / path.name
        # .mhd has its voxels in a file beside it: that first, the file that was asked for last
        for entry in sorted(scratch.iterdir(), key=lambda entry: entry.name == path.name):
            entry.replace(path.parent / entry.name)
    except OSError as error:
        reason = error.strerror or str(error)  # NumPy raises without errno when a disk is full
        raise PosconError(
            f"{path}: cannot be written ({reason}); is the disk full, or the place not writable?"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


LOCK = ".lock"
"""In a folder in which a command is at work."""


@contextmanager
def alone(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder against a second command; it is made, and removed again if it stays empty.

    The system lets the lock go whenever the process ends. On a file system that has no locks
    nothing is held.

    Args:
        folder: where the command writes.
        command: its name, for the message.

    Raises:
        PosconError: another command is at work there, or the folder cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        lock = _locked(folder)
    except OSError as error:
        raise PosconError(f"{folder}: cannot be written ({error.strerror})") from error
    if lock is None:
        raise PosconError(
            f"{folder}: another poscon {command} is at work there; wait until it has ended, then "
            "look at what it left"
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        os.close(lock)
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for place in made:
                place.rmdir()


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None: another process has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:
            return lock
        # whoever had the lock before may have removed the file, and another made it anew
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return lock
        os.close(lock)


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


def holds_nothing(folder: Path) -> bool:
    """Whether there is nothing in a folder but a lock."""
    return all(entry.name == LOCK for entry in folder.iterdir())


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or absent."""
    with complete(path) as part:
        # a name of a file that is not UTF-8 is escaped
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(name: str) -> str:
    """A name of a file or folder as text: bytes that are not UTF-8 become ``%F6`` and the like.

    Python has such bytes as surrogates, which no file format and no terminal takes.
    """
    raw = name.encode("utf-8", "surrogateescape")
    return re.sub(
        "[\udc80-\udcff]",
        lambda found: f"%{ord(found[0]) - 0xDC00:02X}",
        raw.decode("utf-8", "surrogateescape"),
    )


def json_text(content: Any) -> str:
    """Content as JSON for people and programs; NaN is an error, as JSON has none."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """What a JSON file of poscon's own says.

    Raises:
        PosconError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PosconError(f"{path}: damaged ({error}); remove it") from error
