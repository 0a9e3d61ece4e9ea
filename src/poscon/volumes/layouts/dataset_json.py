"""What ``dataset.json`` says, for the two layouts that have one (``msd`` and ``nnunet``)."""

import json
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.volumes.case import LabelScheme, label_scheme, label_value

FILE = "dataset.json"


def read_description(root: Path) -> dict[str, Any]:
    """The content of ``dataset.json``; empty if there is no such file or it is no JSON object.

    Raises:
        PosconError: the file cannot be read, is no JSON, or has a key twice.
    """
    path = root / FILE
    if not path.is_file():
        return {}
    content = read_json_once(path)
    return content if isinstance(content, dict) else {}


def read_json_once(path: Path) -> Any:
    """The content of a JSON file in which every key occurs once in its object.

    Of a key that occurs twice, ``json`` would silently take the last.

    Raises:
        PosconError: the file cannot be read, is no JSON, or has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise PosconError(f"{path}: {repeated[0]!r} occurs twice; keep one of the two")
        return dict(pairs)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise PosconError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise PosconError(f"{path}: not valid JSON ({error}); mend or remove it") from error


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


def labels_of_description(root: Path, description: dict[str, Any]) -> LabelScheme | None:
    """The foreground classes by rising value, and ``ignore``; or None if no class is stated.

    Both spellings are read: ``{"RV": 1}`` (nnU-Net 2) and ``{"1": "RV"}`` (Decathlon, nnU-Net 1).

    The label ``ignore`` says of its voxels that they are not labelled; it has the highest value
    (https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/ignore_label.md).

    Raises:
        PosconError: a label is a region, ``ignore`` has not the highest value, or see
            :func:`poscon.volumes.case.label_scheme`.
    """
    path = root / FILE
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        raise PosconError(f'{path}: labels must be like {{"background": 0, "RV": 1}}')
    value_first = all(key.isdigit() for key in labels)
    values: dict[str, int] = {}
    for key, entry in labels.items():
        value, name = (key, entry) if value_first else (entry, key)
        if isinstance(value, list):
            raise PosconError(
                f"{path}: label {name!r} is a region {value}; regions are not supported, "
                "state one value a label"
            )
        if name in values:
            raise PosconError(f"{path}: the class name {name!r} occurs twice; names must differ")
        values[name] = label_value(value, where=f"{path}: label {name!r}")
    ignore = next(
        (values.pop(name) for name in list(values) if str(name).lower() == "ignore"), None
    )
    if ignore is not None and ignore <= max(values.values(), default=0):
        raise PosconError(
            f"{path}: the label 'ignore' has the value {ignore}, and another label has "
            f"{max(values.values(), default=0)}; 'ignore' has the highest value of all"
        )
    foreground = sorted((value, name) for name, value in values.items() if value != 0)
    zero = [name for name, value in values.items() if value == 0]
    if len(zero) > 1:
        raise PosconError(
            f"{path}: the label value 0 occurs twice, as {zero[0]!r} and {zero[1]!r}; 0 is "
            "background alone"
        )
    scheme = label_scheme(((name, (value,)) for value, name in foreground), where=str(path))
    if ignore is not None:
        scheme = scheme.with_ignore(ignore, where=f"{path}: label 'ignore'")
    return scheme if scheme.classes else None


def modality_of(channel: str) -> str | None:
    """``"CT"`` or ``"MR"`` by a channel's name; None where the name does not tell."""
    name = channel.strip().upper()
    if name.startswith("CT"):  # CTA too
        return "CT"
    return "MR" if name in ("MR", "MRI") else None


def notes_of_description(root: Path, description: dict[str, Any], labelled: int) -> tuple[str, ...]:
    """What ``dataset.json`` says that the files do not bear out, one sentence each.

    Args:
        root: the data set's folder.
        description: the content of its ``dataset.json``.
        labelled: how many training cases have a label map.
    """
    notes = []
    stated = description.get("numTraining")
    if stated is not None and stated != labelled:
        notes.append(
            f"{FILE} states {stated} training cases (numTraining), but {labelled} label maps are "
            f"in {root / 'labelsTr'}."
        )
    labels = description.get("labels", {})
    zero = [key if value == 0 else value for key, value in labels.items() if 0 in (key, value)]
    zero += [name for value, name in labels.items() if value == "0"]
    if zero and "background" not in str(zero[0]).lower():
        notes.append(
            f"{FILE} calls the value 0 {zero[0]!r}: poscon reads 0 as background, not as a class."
        )
    return tuple(notes)
