"""What ``dataset.json`` says, for the two layouts that have one (``msd`` and ``nnunet``)."""

import json
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.volumes.case import LabelClass, LabelScheme

FILE = "dataset.json"


def read_description(root: Path) -> dict[str, Any]:
    """The content of ``dataset.json``; empty if there is no such file or it is no JSON object."""
    path = root / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PosconError(f"{path}: not valid JSON ({error}); mend or remove it") from error
    return content if isinstance(content, dict) else {}


def require_description(root: Path) -> dict[str, Any]:
    """The content of ``dataset.json``, which must be there."""
    description = read_description(root)
    if not description:
        raise PosconError(
            f"{root / FILE}: missing or empty; give the folder that holds it, or another --layout"
        )
    return description


def channel_names(root: Path, description: dict[str, Any]) -> dict[int, str]:
    """The channels' names by number, from ``channel_names`` (nnU-Net 2) or ``modality``."""
    stated: Any = description.get("channel_names", description.get("modality"))
    try:
        names = {int(number): str(name) for number, name in stated.items()}
    except (AttributeError, ValueError):
        names = {}
    if not names:
        raise PosconError(
            f'{root / FILE}: channel_names (or modality) must be like {{"0": "CT"}}, '
            f"found {stated!r}"
        )
    return names


def choose_channels(root: Path, names: dict[int, str], channel: int | None) -> dict[int, str]:
    """Names of the channels to read by number, in order: the user's choice, or all there are.

    Raises:
        PosconError: there is no such channel.
    """
    if channel is None:
        return dict(sorted(names.items()))
    if channel not in names:
        listing = ", ".join(f"{number} {name}" for number, name in sorted(names.items()))
        raise PosconError(f"{root}: there is no channel {channel}; choose from: {listing}")
    return {channel: names[channel]}


def label_scheme(root: Path, description: dict[str, Any]) -> LabelScheme | None:
    """The foreground classes by rising value, or None if none is stated.

    Both spellings are read: ``{"RV": 1}`` (nnU-Net 2) and ``{"1": "RV"}`` (Decathlon, nnU-Net 1).
    """
    path = root / FILE
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        raise PosconError(f'{path}: labels must be like {{"background": 0, "RV": 1}}')
    value_first = all(key.isdigit() for key in labels)
    classes = []
    for key, entry in labels.items():
        value, name = (key, entry) if value_first else (entry, key)
        if isinstance(value, list):
            raise PosconError(
                f"{path}: label {name!r} is a region {value}; regions are not supported, "
                "state one value a label"
            )
        if name == "ignore":
            raise PosconError(f"{path}: the label 'ignore' is not supported; remove it")
        try:
            classes.append(LabelClass(str(name), (int(value),)))
        except (TypeError, ValueError):
            raise PosconError(f"{path}: label {name!r}: {value!r} is no whole number") from None
    foreground = [label_class for label_class in classes if label_class.values != (0,)]
    foreground.sort(key=lambda label_class: label_class.values)
    return LabelScheme(tuple(foreground)) if foreground else None
