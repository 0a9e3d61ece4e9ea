"""Read ``dataset.json``, for the two layouts that have one (``msd`` and ``nnunet``)."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.volumes.case import LabelScheme, check_name, label_scheme, label_value
from poscon.volumes.layouts.regions import classes_of_regions

FILE = "dataset.json"


def read_description(root: Path) -> dict[str, Any]:
    """Read ``dataset.json``. The result is empty if there is no such file or no JSON object in it.

    Raises:
        PosconError: the file cannot be read, is no JSON, or has a key twice.
    """
    path = root / FILE
    if not path.is_file():
        return {}
    content = read_json_once(path)
    return content if isinstance(content, dict) else {}


def read_json_once(path: Path) -> Any:
    """Read a JSON file in which every key occurs once in its object.

    If a key occurs twice, ``json`` silently takes the last.

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
        raise PosconError(f"{path}: not valid JSON ({error}); correct or remove it") from error


def require_description(root: Path) -> dict[str, Any]:
    """Read ``dataset.json``, which must be there and hold an object."""
    description = read_description(root)
    if not description:
        raise PosconError(
            f"{root / FILE}: missing or empty; give the folder that holds it, or another --layout"
        )
    return description


def channel_names(root: Path, description: dict[str, Any]) -> dict[int, str]:
    """The names of the channels by number, from ``channel_names`` (nnU-Net 2) or ``modality``."""
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
    return {
        number: check_name(name, f"{root / FILE}: channel {number}")
        for number, name in names.items()
    }


def choose_channels(root: Path, names: dict[int, str], channel: int | str | None) -> dict[int, str]:
    """The names of the channels to read, by number and in order: the user's choice, or all.

    Args:
        root: the data set's folder, for an error message.
        names: the name of each channel.
        channel: number or name of a channel, or several with commas between them; None: all.

    Raises:
        PosconError: there is no such channel, a name is that of two channels, or a channel is
            chosen twice.
    """
    if channel is None:
        return dict(sorted(names.items()))
    listing = ", ".join(f"{number} {name}" for number, name in sorted(names.items()))
    chosen: list[int] = []
    for word in str(channel).split(","):
        wanted = word.strip()
        found = [number for number in names if str(number) == wanted] or [
            number for number, name in names.items() if name.strip().lower() == wanted.lower()
        ]
        if not found:
            raise PosconError(f"{root}: there is no channel {wanted}; choose from: {listing}")
        if len(found) > 1:
            raise PosconError(
                f"{root}: {len(found)} channels have the name {wanted}; choose by number from: "
                f"{listing}"
            )
        chosen += found
    if len(set(chosen)) < len(chosen):
        raise PosconError(f"{root}: --channel {channel} names a channel twice; name each once")
    return {number: names[number] for number in sorted(chosen)}


def labels_of_description(root: Path, description: dict[str, Any]) -> LabelScheme | None:
    """The foreground classes in the order of their values, and ``ignore``; None if none is stated.

    Both spellings are read: ``{"RV": 1}`` (nnU-Net 2) and ``{"1": "RV"}`` (Decathlon, nnU-Net 1).

    The label ``ignore`` says of its voxels that they are not labelled; it has the highest value
    (https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/ignore_label.md). A label with a
    list of values is a region, see :mod:`poscon.volumes.layouts.regions`.

    Raises:
        PosconError: the regions are no classes, ``ignore`` does not have the highest value, or
            :func:`poscon.volumes.case.label_scheme` refuses the classes.
    """
    path = root / FILE
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        raise PosconError(f'{path}: labels must be like {{"background": 0, "RV": 1}}')
    if any(isinstance(value, list) for value in labels.values()):
        return _scheme_of_regions(path, labels, description.get("regions_class_order"))
    value_first = all(key.isdigit() for key in labels)
    values: dict[str, int] = {}
    for key, entry in labels.items():
        value, name = (key, entry) if value_first else (entry, key)
        name = check_name(name, f"{path}: a class")
        if name in values:
            raise PosconError(f"{path}: the class name {name!r} occurs twice; names must differ")
        values[name] = label_value(value, where=f"{path}: label {name!r}")
    ignore = next(
        (values.pop(name) for name in list(values) if str(name).lower() == "ignore"), None
    )
    _check_ignore(path, ignore, values.values())
    foreground = sorted((value, name) for name, value in values.items() if value != 0)
    zero = [name for name, value in values.items() if value == 0]
    if len(zero) > 1:
        raise PosconError(
            f"{path}: the label value 0 occurs twice, as {zero[0]!r} and {zero[1]!r}; 0 is "
            "background alone"
        )
    scheme = label_scheme(((name, (value,)) for value, name in foreground), where=str(path))
    return _with_ignore(path, scheme, ignore) if scheme.classes else None


def _scheme_of_regions(path: Path, labels: dict[str, Any], order: Any) -> LabelScheme:
    """The classes of labels of which some are regions."""
    ignore: int | None = None
    regions: dict[str, frozenset[int]] = {}
    for name, stated in labels.items():
        where = f"{path}: label {name!r}"
        listed = stated if isinstance(stated, list) else [stated]
        values = frozenset(label_value(value, where=where) for value in listed)
        if not values:
            raise PosconError(f"{where}: has no value; state at least one")
        if name.lower() == "ignore" and len(values) == 1:
            (ignore,) = values
        elif values != {0}:
            regions[name] = values
            if 0 in values:
                raise PosconError(f"{where}: has the value 0, which is background; leave it out")
    _check_ignore(path, ignore, [value for values in regions.values() for value in values])
    classes = classes_of_regions(regions, order, where=str(path))
    return _with_ignore(path, label_scheme(classes, where=str(path)), ignore)


def _check_ignore(path: Path, ignore: int | None, values: Collection[int]) -> None:
    highest = max(values, default=0)
    if ignore is not None and ignore <= highest:
        raise PosconError(
            f"{path}: the label 'ignore' has the value {ignore}, and another label has {highest}; "
            "'ignore' has the highest value of all"
        )


def _with_ignore(path: Path, scheme: LabelScheme, ignore: int | None) -> LabelScheme:
    if ignore is None:
        return scheme
    return scheme.with_ignore(ignore, where=f"{path}: label 'ignore'")


def modality_of(channel: str) -> str | None:
    """The modality ``"CT"`` or ``"MR"`` by a channel's name, or None if the name does not say."""
    name = channel.strip().upper()
    if name.startswith("CT"):  # CTA too
        return "CT"
    return "MR" if name in ("MR", "MRI") else None


def notes_of_description(root: Path, description: dict[str, Any], labelled: int) -> tuple[str, ...]:
    """Notes on where ``dataset.json`` and the files disagree, one sentence each.

    Args:
        root: the data set's folder.
        description: the content of its ``dataset.json``.
        labelled: number of training cases with a label map.
    """
    notes = []
    stated = description.get("numTraining")
    if stated is not None and stated != labelled:
        notes.append(
            f"{FILE} states {stated} training cases (numTraining), but {labelled} label maps are "
            f"in {root / 'labelsTr'}."
        )
    labels = description.get("labels", {})
    scheme = labels_of_description(root, description)
    if scheme is not None and any(isinstance(value, list) for value in labels.values()):
        classes = ", ".join(
            f"{c.name} ({'+'.join(map(str, sorted(c.values)))})" for c in scheme.classes
        )
        notes.append(
            f"{FILE} has regions; they are read as classes that do not overlap, by their label "
            f"values: {classes}."
        )
    zero = [key if value == 0 else value for key, value in labels.items() if 0 in (key, value)]
    zero += [name for value, name in labels.items() if value == "0"]
    if zero and "background" not in str(zero[0]).lower():
        notes.append(
            f"{FILE} calls the value 0 {zero[0]!r}: poscon reads 0 as background, not as a class."
        )
    return tuple(notes)
