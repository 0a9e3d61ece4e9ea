"""Any folder of scans, nested or flat, with or without label maps.

A label map is recognised by a folder (``labels/`` or ``masks/`` beside ``images/``), by its name
beside its image (``NAME_seg``, ``NAME.seg``, ``seg-1`` beside ``volume-1``) or by the name alone
(``segmentation`` beside the only image of a folder). Capitals do not matter. Each frame of a 4-D
file is a case. All frames of a file belong to one subject.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts.base import Layout, refuse_channel, scan_files, split_frames
from poscon.volumes.layouts.labels_json import LABELS_FILE, says_labels, stated_scheme
from poscon.volumes.scan import scan_stem

NAME = "plain"
_LABEL = (
    r"labels?|label[-_]?maps?|masks?|gts?|ground[-_]?truths?|truth|annotations?|segmentations?|"
    r"d?segs?|rois?|contours?|delineations?|manual"
)
_IMAGE = r"images?|imgs?|imaging|scans?|volumes?|vol"
_PART = r"(?:[-_ ]?(?P<part>tr|ts|va|val|train|training|test|testing|valid|validation))?"
_LABEL_FOLDER = re.compile(rf"(?:{_LABEL}){_PART}", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(rf"(?:{_IMAGE}){_PART}", re.IGNORECASE)
_LABEL_NAME = re.compile(
    rf"(?P<before>.+?)(?:[-_. ](?:{_LABEL}))+|(?:(?:{_LABEL})[-_. ])+(?P<after>.+)|(?:{_LABEL})",
    re.IGNORECASE,
)
_IMAGE_NAME = re.compile(
    rf"(?P<before>.+?)[-_. ](?:{_IMAGE}|0000)|(?:{_IMAGE})[-_. ](?P<after>.+)", re.IGNORECASE
)


def matches(root: Path) -> bool:
    return bool(scan_files(root, "**/*"))


def read(root: Path, channel: int | None) -> Dataset:
    refuse_channel(channel, NAME)
    files, predicted = _without_predictions(root)
    _refuse_other_layouts(root, files)
    by_folder = any(file.is_label_folder for file in files)
    labels = [file for file in files if file.is_label(by_folder)]
    images = [file for file in files if not file.is_label(by_folder)]
    pairs = _pairs(images, labels)
    stems = Counter(scan_stem(image.path) for image in images)
    keys = Counter(image.key for image in images)
    cases = []
    for image in images:
        name = scan_stem(image.path)
        if stems[name] > 1:
            name = image.key if keys[image.key] == 1 else image.name
            name = name.replace("/", "_")
        label = pairs.get(image.path)
        case = Case(name, name, image.path, label)
        frames = split_frames(case)
        if label and len(frames) > 1:
            raise PosconError(
                f"{image.path}: 4-D with a label map ({label.name}); poscon cannot know which "
                "frames are labelled: write the labelled frames as 3-D files"
            )
        cases += frames
    notes = tuple(
        f"{folder.relative_to(root)}: a folder of predictions ({LABELS_FILE}), not read."
        for folder in predicted
    )
    return Dataset(NAME, root, tuple(cases), stated_scheme(pairs.values()), notes=notes)


@dataclass(frozen=True)
class _File:
    """A scan file and what its path says.

    Attributes:
        path: the file.
        name: its path in the folder, without suffix.
        key: the name without the folders that say image or label. An image and its label map
            share it.
        is_label_folder: whether it lies in a folder of label maps.
        is_image_folder: whether it lies in a folder of images.
    """

    path: Path
    name: str
    key: str
    is_label_folder: bool
    is_image_folder: bool

    def is_label(self, by_folder: bool) -> bool:
        """Whether it is a label map. ``by_folder``: whether there are folders of label maps."""
        if self.is_label_folder or (by_folder and self.is_image_folder):
            return self.is_label_folder
        return _LABEL_NAME.fullmatch(scan_stem(self.path)) is not None

    @property
    def short_key(self) -> str:
        """The key without the part of the file's name that says image or label."""
        folder, _, stem = self.key.rpartition("/")
        for pattern in (_LABEL_NAME, _IMAGE_NAME):
            if found := pattern.fullmatch(stem):
                stem = found["before"] or found["after"] or ""
        return f"{folder}/{stem}"


def _file(path: Path, root: Path) -> _File:
    *folders, _ = path.relative_to(root).parts
    kept, role = [], None
    for folder in folders:
        label, image = _LABEL_FOLDER.fullmatch(folder), _IMAGE_FOLDER.fullmatch(folder)
        found = label or image
        if found is None:
            kept.append(folder)
            continue
        role = "label" if label else "image"
        if found["part"]:
            kept.append(found["part"].lower())
    stem = scan_stem(path)
    name = path.with_name(stem).relative_to(root).as_posix()
    return _File(path, name, "/".join([*kept, stem]), role == "label", role == "image")


def _without_predictions(root: Path) -> tuple[list[_File], list[Path]]:
    """The files, and the folders that ``poscon predict`` wrote. The files of these are left out."""
    files, predicted = [], set()
    for path in scan_files(root, "**/*"):
        file = _file(path, root)
        if not file.is_label_folder and says_labels(path.parent):
            predicted.add(path.parent)
        else:
            files.append(file)
    if root in predicted:
        raise PosconError(
            f"{root}: a folder of label maps ({LABELS_FILE}), not of scans; give the folder of the "
            "scans, or move the label maps into labels/ beside images/"
        )
    return files, sorted(predicted)


def _refuse_other_layouts(root: Path, files: Iterable[_File]) -> None:
    for file in files:
        for folder in file.path.relative_to(root).parents:
            if folder.name == "imagesTr":
                home = root / folder.parent
                raise PosconError(
                    f"{home}: has imagesTr but no usable dataset.json beside it, so it is neither "
                    "the nnU-Net nor the Decathlon layout; correct dataset.json, or give the "
                    "folder of the images"
                    if home == root
                    else f"{root}: {folder.parent} in it has imagesTr, so it is a data set of its "
                    f"own; give {home}"
                )


def _pairs(images: list[_File], labels: list[_File]) -> dict[Path, Path]:
    """Find the label map of each image: by the key, else by the short key, else by the folder."""
    exact: dict[str, list[_File]] = defaultdict(list)
    short: dict[str, list[_File]] = defaultdict(list)
    folder: dict[str, list[_File]] = defaultdict(list)
    for image in images:
        exact[image.key].append(image)
        short[image.short_key].append(image)
        folder[image.key.rpartition("/")[0] + "/"].append(image)
    pairs: dict[Path, Path] = {}
    for label in labels:
        key = label.short_key
        found = (
            (exact[label.key] if label.is_label_folder else [])
            or exact[key.removeprefix("/")]
            or short[key]
            or (folder[key] if key.endswith("/") else [])
        )
        if not found:
            raise PosconError(
                f"{label.path}: a label map without its image (case {label.key!r}); "
                "add the image or remove the label map"
            )
        if len(found) > 1:
            raise PosconError(
                f"{label.path}: may be the label map of {found[0].path} or of {found[1].path}; "
                "give it the name of its image"
            )
        (image,) = found
        if image.path in pairs:
            raise PosconError(
                f"two files for the case {image.key!r}: {pairs[image.path]} and {label.path}; "
                "rename or remove one"
            )
        pairs[image.path] = label.path
    return pairs


LAYOUT = Layout(
    NAME,
    "any folder of scans: .nii, .nii.gz, .nrrd, .mha, .mhd; label maps in labels/ or masks/ beside "
    "images/, or named like their image with _seg, _gt, _label, _mask, .seg and the like",
    matches,
    read,
)
