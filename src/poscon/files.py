"""Writing so that a file or folder is complete or absent, and a full disk is one clear line."""

import json
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
        scratch = Path(tempfile.mkdtemp(prefix=f".writing-{path.name}-", dir=path.parent))
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


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or absent."""
    with complete(path) as part:
        part.write_text(text, encoding="utf-8")


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
