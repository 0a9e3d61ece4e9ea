"""nnU-Net raw data, versions 1 and 2: one file a channel.

https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md. Files: ``dataset.json``,
``imagesTr/CASE_0000.nii.gz`` (the last four digits are the channel), ``labelsTr/CASE.nii.gz``
and, unlabelled, ``imagesTs/CASE_0000.nii.gz``.
"""

import re
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts.base import Layout, by_case, refuse_orphans, scan_files
from poscon.volumes.layouts.dataset_json import (
    FILE,
    channel_names,
    choose_channel,
    labels_of_description,
    modality_of,
    notes_of_description,
    read_description,
    require_description,
)
from poscon.volumes.scan import SUFFIXES, scan_stem

NAME = "nnunet"
_IMAGE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def matches(root: Path) -> bool:
    description = read_description(root)
    if "channel_names" in description:
        return True
    # Version 1 has the Decathlon's dataset.json: the channel in the file names tells them apart.
    images = scan_files(root, "imagesTr/*_0000.*")
    own_label = [path for path in images if (root / "labelsTr" / path.name).is_file()]
    return "modality" in description and bool(images) and not own_label


def read(root: Path, channel: int | None) -> Dataset:
    description = require_description(root)
    if "dataset" in description:
        raise PosconError(
            f"{root / FILE}: lists its files under 'dataset', which poscon does not read; put them "
            "into imagesTr and labelsTr"
        )
    names = channel_names(root, description)
    chosen = choose_channel(root, names, channel)
    modality = modality_of(names[chosen])
    ending = description.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise PosconError(
            f"{root / FILE}: file_ending {ending!r} is not read; poscon reads {', '.join(SUFFIXES)}"
        )

    training = _images(root / "imagesTr", ending, chosen)
    test = _images(root / "imagesTs", ending, chosen)
    labels = by_case(
        (scan_stem(path), path) for path in scan_files(root / "labelsTr", f"*{ending}")
    )
    refuse_orphans(training, labels)
    cases = [
        Case(name, name, image, labels.get(name), modality=modality)
        for name, image in training.items()
    ]
    cases += [Case(name, name, image, modality=modality) for name, image in test.items()]
    return Dataset(
        NAME,
        root,
        tuple(cases),
        labels_of_description(root, description),
        notes=notes_of_description(root, description, len(labels)),
    )


def _images(folder: Path, ending: str, channel: int) -> dict[str, Path]:
    """The images of one channel by case."""
    images: dict[str, Path] = {}
    for path in scan_files(folder, f"*{ending}"):
        name = _IMAGE.fullmatch(scan_stem(path))
        if name is None:
            raise PosconError(f"{path}: the name has no channel; nnU-Net's is CASE_0000{ending}")
        if int(name["channel"]) == channel:
            images[name["case"]] = path
    return images


LAYOUT = Layout(
    NAME,
    "nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs/",
    matches,
    read,
)
