"""``labels.json``: what the values of a folder of label maps mean; ``poscon predict`` writes it."""

from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import LabelScheme, label_scheme
from poscon.volumes.layouts.dataset_json import read_json_once

LABELS_FILE = "labels.json"


def read_labels_file(folder: Path) -> LabelScheme | None:
    """What ``labels.json`` in a folder says, or None if there is no such file.

    Raises:
        PosconError: it is not of the form that is expected, or see
            :func:`poscon.volumes.case.label_scheme`.
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
    """Whether a folder has a ``labels.json`` like that of ``poscon predict``: it holds label maps.

    A file of that name that another program wrote says nothing.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        return False
    content = read_json_once(path)
    return isinstance(content, dict) and "classes" in content
