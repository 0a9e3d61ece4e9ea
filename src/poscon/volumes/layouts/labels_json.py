"""``labels.json`` says what the values of a folder of label maps mean.

``poscon predict`` writes it.
"""

from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import LabelScheme, label_scheme
from poscon.volumes.layouts.dataset_json import read_json_once

LABELS_FILE = "labels.json"


def read_labels_file(folder: Path) -> LabelScheme | None:
    """Read ``labels.json`` of a folder; None if there is no such file.

    Raises:
        PosconError: the file does not have the expected form, or
            :func:`poscon.volumes.case.label_scheme` refuses its classes.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        return None
    content = read_json_once(path)
    try:
        classes = [(entry["name"], entry["values"]) for entry in content["classes"]]
        if not classes or not all(isinstance(values, list) for _, values in classes):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise PosconError(
            f'{path}: expected {{"classes": [{{"name": "RV", "values": [1]}}, ...]}}; correct it '
            "or remove it"
        ) from error
    return label_scheme(classes, where=str(path))


def says_labels(folder: Path) -> bool:
    """Whether a folder holds label maps, because its ``labels.json`` is like poscon's.

    A file of that name from another program does not count.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        return False
    content = read_json_once(path)
    return isinstance(content, dict) and "classes" in content
