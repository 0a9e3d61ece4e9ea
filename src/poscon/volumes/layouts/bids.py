"""BIDS: anatomical scans, and their discrete segmentations in derivatives.

Gorgolewski et al., Scientific Data 2016, https://bids-specification.readthedocs.io. Files:
``sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz`` and
``derivatives/PIPELINE/sub-01/[ses-1/]anat/sub-01_[ses-1_][T1w_]dseg.nii.gz``. A ``_dseg.tsv`` names
the classes (columns ``index`` and ``name``). In a data set without such segmentations, masks of
one structure are read, ``sub-01_[T1w_]label-lesion_mask.nii.gz``. Other masks, probability maps,
segmentations in another space and other folders than ``anat`` are not read. If there is a
``participants.tsv``, only the subjects that it lists are read.
"""

import csv
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.affine import same_place
from poscon.volumes.case import Case, Dataset, LabelScheme, label_scheme, label_value
from poscon.volumes.layouts.base import Layout, frames_of, refuse_channel, scan_files
from poscon.volumes.scan import read_header, scan_stem

NAME = "bids"
PARTICIPANTS = "participants.tsv"
_LABEL_SUFFIX = "dseg"
_MASK_SUFFIX = "mask"
_OTHER_SUFFIXES = ("mask", "probseg", "defacemask", "dseg")
_OWN_OF_LABELS = ("desc", "label", "atlas", "seg", "space", "res", "den", "hemi")
"""Entities that a segmentation has, but its scan does not."""


def matches(root: Path) -> bool:
    return bool(_scans(root))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    listed = _participants(root)
    found = _scans(root)
    images = [path for path in found if listed is None or _subject(path) in listed]
    if found and not images:
        raise PosconError(
            f"{root / PARTICIPANTS}: lists none of the subjects here, such as "
            f"{_subject(found[0])}; correct or remove it"
        )
    unused = "scan file(s) of subjects that are not in participants.tsv"
    files, scheme, notes = _labels(root)
    labels: dict[Path, Path] = {}
    for path in files:
        if listed is not None and _subject(path) not in listed:
            continue
        image = _image_of(path, images)
        if image in labels:
            raise PosconError(
                f"{image}: two segmentations, {labels[image]} and {path}; move one out of "
                "derivatives"
            )
        labels[image] = path
    cases = []
    for image in images:
        stem = scan_stem(image)
        label = labels.get(image)
        cases += frames_of(Case(stem, _subject(image), image, label, modality=_modality(stem)))
    return Dataset(
        NAME,
        root,
        tuple(cases),
        scheme,
        notes=notes,
        unused=tuple((unused, path) for path in found if path not in images),
    )


def _scans(root: Path) -> list[Path]:
    """The scans in ``anat`` folders of the data set itself."""
    files = scan_files(root, "sub-*/anat/sub-*") + scan_files(root, "sub-*/ses-*/anat/sub-*")
    return [path for path in files if scan_stem(path).split("_")[-1] not in _OTHER_SUFFIXES]


def _subject(path: Path) -> str:
    return scan_stem(path).split("_")[0]


def _participants(root: Path) -> set[str] | None:
    """The subjects that ``participants.tsv`` lists; None if there is no such file."""
    path = root / PARTICIPANTS
    if not path.is_file():
        return None
    rows = _rows(path)
    if not rows or "participant_id" not in rows[0]:
        raise PosconError(f"{path}: expected the column participant_id; correct or remove it")
    names = [(row["participant_id"] or "").strip() for row in rows]
    return {name if name.startswith("sub-") else f"sub-{name}" for name in names}


def _labels(root: Path) -> tuple[list[Path], LabelScheme | None, tuple[str, ...]]:
    """The label maps, what their values mean, and notes: segmentations, else masks of one label."""
    if segmentations := _segmentations(root, _LABEL_SUFFIX):
        return segmentations, _classes(root), ()
    masks = [path for path in _segmentations(root, _MASK_SUFFIX) if "label" in _entities(path)[0]]
    names = sorted({_entities(path)[0]["label"] for path in masks})
    if len(names) == 1:
        return masks, label_scheme([(names[0], ("1",))], where=str(masks[0])), ()
    note = (
        f"masks of {len(names)} structures ({', '.join(names)}) are not read: write those of a "
        f"scan into one {_LABEL_SUFFIX} file."
    )
    return [], _classes(root), (note,) if names else ()


def _segmentations(root: Path, suffix: str) -> list[Path]:
    """The label maps with a suffix, such as ``dseg``, in the space of the scans."""
    found = []
    for home in ("", "derivatives/", "derivatives/*/"):
        for folder in ("sub-*/anat/", "sub-*/ses-*/anat/"):
            found += scan_files(root, f"{home}{folder}sub-*_{suffix}.*")
    return [path for path in found if _entities(path)[0].get("space", "orig") in ("orig", "T1w")]


def _entities(path: Path) -> tuple[dict[str, str], set[str]]:
    """Split a name into its entities (``sub``: ``01``) and its parts without a dash (``T1w``)."""
    parts = scan_stem(path).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return entities, {part for part in parts if "-" not in part}


def _image_of(label: Path, images: list[Path]) -> Path:
    """Find the scan of a segmentation by its entities, then by its grid."""
    entities, parts = _entities(label)
    wanted = {key: value for key, value in entities.items() if key not in _OWN_OF_LABELS}
    parts -= {_LABEL_SUFFIX, _MASK_SUFFIX}
    fitting = []
    for image in images:
        has, suffix = _entities(image)
        if all(has.get(key) == value for key, value in wanted.items()) and parts <= suffix:
            fitting.append(image)
    if len(fitting) > 1:
        own = read_header(label)
        on_grid = [
            image
            for image in fitting
            if (header := read_header(image)).shape == own.shape
            and same_place(own.shape, header.affine, own.affine)
        ]
        fitting = on_grid if len(on_grid) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise PosconError(
            f"{label}: a label map without its image; add the image or remove the label map"
        )
    raise PosconError(
        f"{label}: may belong to {fitting[0].name} or to {fitting[1].name}; say it in the name, "
        f"such as {scan_stem(fitting[0])}_{_LABEL_SUFFIX}"
    )


def _modality(stem: str) -> str | None:
    suffix = stem.split("_")[-1].lower()
    return (
        "CT" if suffix == "ct" else "MR" if suffix.startswith(("t1", "t2", "pd", "flair")) else None
    )


def _classes(root: Path) -> LabelScheme | None:
    """Read the classes from the tables of the segmentations; None if there is no table."""
    schemes: dict[LabelScheme, Path] = {}
    for path in sorted(root.rglob(f"*_{_LABEL_SUFFIX}.tsv")):
        rows = _rows(path)
        if not rows or not {"index", "name"} <= rows[0].keys():
            raise PosconError(f"{path}: expected the columns index and name; correct or remove it")
        classes = [
            (row["name"], (row["index"],))
            for row in rows
            if label_value(row["index"], where=str(path)) != 0
        ]
        schemes.setdefault(label_scheme(classes, where=str(path)), path)
    if len(schemes) > 1:
        first, second, *_ = schemes.values()
        raise PosconError(
            f"{first} and {second} name different classes; keep one, or use --layout plain"
        )
    return next(iter(schemes), None)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return list(csv.DictReader(text.splitlines(), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PosconError(f"{path}: cannot be read ({error}); correct or remove it") from error


LAYOUT = Layout(
    NAME,
    "BIDS: sub-01/[ses-1/]anat/sub-01_T1w.nii.gz, derivatives/PIPELINE/sub-01/anat/"
    "sub-01_[T1w_]dseg.nii.gz, ..._dseg.tsv",
    matches,
    read,
)
