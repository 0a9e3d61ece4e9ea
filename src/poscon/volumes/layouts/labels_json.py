"""What label maps say themselves of their values: by ``labels.json``, or by Slicer's segments.

``poscon predict`` and ``poscon suggest`` write ``labels.json``.
"""

from collections.abc import Iterable
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import LabelScheme, label_scheme, label_value
from poscon.volumes.label_maps import segment_values
from poscon.volumes.layouts.dataset_json import read_json_once
from poscon.volumes.scan import scan_suffix

LABELS_FILE = "labels.json"


def stated_scheme(label_maps: Iterable[Path]) -> LabelScheme | None:
    """The classes of ``labels.json`` beside the label maps, or the names of Slicer's segments.

    Args:
        label_maps: the files.

    Returns:
        The scheme. None: nothing is said. It has no class if only the value of voxels that are not
        labelled is said.

    Raises:
        PosconError: two folders say different things, or some files have no names of segments.
    """
    paths = sorted(label_maps)
    stated: dict[LabelScheme, Path] = {}
    for folder in sorted({path.parent for path in paths}):
        if scheme := read_labels_file(folder):
            stated.setdefault(scheme, folder / LABELS_FILE)
    if len(stated) > 1:
        first, second, *_ = stated.values()
        raise PosconError(f"{first} and {second} say different things; make them alike")
    found, file = next(iter(stated.items()), (None, None))
    if found is not None and found.classes:
        return found
    segments = _segment_scheme(paths)
    if segments is None or found is None or found.ignore is None:
        return segments or found
    return segments.with_ignore(found.ignore, where=f"{file}: ignore")


def _segment_scheme(paths: list[Path]) -> LabelScheme | None:
    """A class for each name of Slicer's segments; None if no file has such names."""
    named = {path: segment_values(path) for path in paths if scan_suffix(path) == ".nrrd"}
    names = dict.fromkeys(name for segments in named.values() for name in segments)
    if not names:
        return None
    without = [path for path in paths if not named.get(path)]
    if without:
        raise PosconError(
            f"{without[0]}: has no names of segments, but other label maps have; export all of "
            "them in the same way"
        )
    classes = ((name, (value,)) for value, name in enumerate(names, start=1))
    return label_scheme(classes, where=str(paths[0]))


def read_labels_file(folder: Path) -> LabelScheme | None:
    """Read ``labels.json`` of a folder; None if there is no such file.

    Its ``ignore`` is the value of voxels that are not labelled. With it ``classes`` may be empty.

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
        ignore = content.get("ignore")
        stated = classes or ignore is not None
        if not stated or not all(isinstance(values, list) for _, values in classes):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise PosconError(
            f'{path}: expected {{"classes": [{{"name": "RV", "values": [1]}}, ...]}}; correct it '
            "or remove it"
        ) from error
    scheme = label_scheme(classes, where=str(path))
    if ignore is None:
        return scheme
    where = f"{path}: ignore"
    return scheme.with_ignore(label_value(ignore, where=where), where=where)


def says_labels(folder: Path) -> bool:
    """Whether a folder holds label maps, because its ``labels.json`` is like poscon's.

    A file of that name from another program does not count.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        return False
    content = read_json_once(path)
    return isinstance(content, dict) and "classes" in content
