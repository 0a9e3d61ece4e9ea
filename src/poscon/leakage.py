"""Which scans a model has seen, and as what: found again by their pixels, whatever they are called.

A model says little of new patients where it was pre-trained or trained on the very scans that it is
measured on. ``poscon predict`` compares the pixels of every scan with those of the model's run and
notes what it finds in ``seen.json`` beside the label maps; ``poscon evaluate`` marks these cases.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.files import parse_json
from poscon.store.manifest import write_json

SEEN_FILE = "seen.json"

Seen = Mapping[str, tuple[str, ...]]
"""Roles that a scan had in training, by the scan's name or by the hash of its pixels."""


def read_entries(run: Path) -> list[dict[str, Any]]:
    """The entries of a run's ``cases.json``; none if it is not there.

    Raises:
        PosconError: it is damaged.
    """
    path = run / "cases.json"
    if not path.is_file():
        return []
    try:
        entries = parse_json(path.read_bytes())
        for entry in entries:
            _role(entry["role"])
            if not isinstance(entry["pixels_sha256"], str):
                raise TypeError
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PosconError(f"{path}: damaged; it should list the cases that were trained on") from (
            error
        )
    return entries


def roles_by_pixels(entries: Sequence[Mapping[str, Any]]) -> Seen:
    """Hash of a scan's pixels -> the roles it had, in order of the alphabet."""
    roles: dict[str, set[str]] = {}
    for entry in entries:
        roles.setdefault(entry["pixels_sha256"], set()).add(entry["role"])
    return {pixels: tuple(sorted(names)) for pixels, names in roles.items()}


def note_seen(folder: Path, name: str, roles: tuple[str, ...]) -> None:
    """Write what is known of a scan whose label map is about to be put into a folder.

    Args:
        folder: folder of predictions.
        name: name of the scan.
        roles: that it had in the training of the model; none takes back what is said of it.
    """
    known = dict(read_seen(folder))
    told = {**known, name: roles} if roles else {k: v for k, v in known.items() if k != name}
    if told != known:
        write_json(folder / SEEN_FILE, {"cases": told})


def read_seen(folder: Path) -> Seen:
    """What :func:`note_seen` wrote; nothing if there is no such file.

    Raises:
        PosconError: it is damaged.
    """
    path = folder / SEEN_FILE
    if not path.is_file():
        return {}
    try:
        cases = parse_json(path.read_bytes())["cases"]
        return {str(name): tuple(map(_role, roles)) for name, roles in cases.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PosconError(f'{path}: expected {{"cases": {{...}}}}; remove it') from error


def _role(role: Any) -> str:
    """A role, as it is printed and put into tables.

    Raises:
        TypeError: it is no word.
    """
    if not isinstance(role, str) or not role.isidentifier():
        raise TypeError
    return role


def describe(seen: Seen) -> str:
    """``3 scan(s) seen in training: a (labelled), b (pretrain), ...``."""
    shown = [f"{name} ({', '.join(roles)})" for name, roles in list(seen.items())[:5]]
    more = ", ..." if len(seen) > len(shown) else ""
    return f"{len(seen)} scan(s) seen in training: {', '.join(shown)}{more}"
