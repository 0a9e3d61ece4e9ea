"""Any folder of scans, nested or flat, with or without label maps.

Label maps are in ``labels/`` beside ``images/`` under the same names, or next to their image as
``NAME_gt``, ``NAME_seg``, ``NAME_label``, ``NAME-label`` or ``NAME_mask``. Every frame of a 4-D
file is a case of one subject.
"""

import re
from collections import Counter
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts.base import (
    Layout,
    by_case,
    refuse_channel,
    refuse_orphans,
    scan_files,
    split_frames,
)
from poscon.volumes.scan import scan_stem

NAME = "plain"
_LABEL = re.compile(r"(?P<case>.+)(?:_gt|_seg|_label|-label|_mask)")


def matches(root: Path) -> bool:
    return bool(scan_files(root, "**/*"))


def read(root: Path, channel: int | None) -> Dataset:
    refuse_channel(channel, NAME)
    if (root / "imagesTr").is_dir():
        raise PosconError(
            f"{root}: has imagesTr but no usable dataset.json beside it, so it is neither the "
            "nnU-Net nor the Decathlon layout; mend dataset.json, or give the folder of the images"
        )
    images, labels = _files(root)
    refuse_orphans(images, labels)
    stems = Counter(scan_stem(path) for path in images.values())
    cases = []
    for name, image in images.items():
        stem = scan_stem(image)
        subject = stem if stems[stem] == 1 else name.replace("/", "_")
        case = Case(subject, subject, image, labels.get(name))
        frames = split_frames(case)
        if case.label and len(frames) > 1:
            raise PosconError(
                f"{image}: 4-D with a label map ({case.label.name}); poscon cannot know which "
                "frames are labelled: write the labelled frames as 3-D files"
            )
        cases += frames
    return Dataset(NAME, root, tuple(cases))


def _files(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label maps, by their path in the folder without suffix."""
    if (root / "images").is_dir() and (root / "labels").is_dir():
        images, labels = (
            [(_name(path, root / part), path) for path in scan_files(root / part, "**/*")]
            for part in ("images", "labels")
        )
    else:
        images, labels = [], []
        for path in scan_files(root, "**/*"):
            name = _name(path, root)
            if label := _LABEL.fullmatch(name):
                labels.append((label["case"], path))
            else:
                images.append((name, path))
    return by_case(images), by_case(labels)


def _name(path: Path, folder: Path) -> str:
    return path.with_name(scan_stem(path)).relative_to(folder).as_posix()


LAYOUT = Layout(
    NAME,
    "any folder of scans: .nii, .nii.gz, .nrrd, .mha, .mhd; label maps in labels/ beside images/, "
    "or named like their image with _gt, _seg, _label, -label or _mask",
    matches,
    read,
)
