"""Medical Segmentation Decathlon: one folder a task.

Antonelli et al., Nature Communications 2022, http://medicaldecathlon.com. Files:
``dataset.json``, ``imagesTr/CASE.nii.gz``, ``labelsTr/CASE.nii.gz`` and, unlabelled,
``imagesTs/CASE.nii.gz``. Images of several modalities are 4-D with the channel last.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts.base import Layout, by_case, refuse_orphans, scan_files
from poscon.volumes.layouts.dataset_json import (
    channel_names,
    choose_channel,
    labels_of_description,
    read_description,
    require_description,
)
from poscon.volumes.scan import read_shape, scan_stem

NAME = "msd"


def matches(root: Path) -> bool:
    return "modality" in read_description(root) and (root / "imagesTr").is_dir()


def read(root: Path, channel: int | None) -> Dataset:
    description = require_description(root)
    names = channel_names(root, description)
    chosen = choose_channel(root, names, channel)
    modality = "CT" if names[chosen] == "CT" else "MR"
    _refuse_missing(root, description)

    training, labels, test = (
        by_case((scan_stem(path), path) for path in scan_files(root / folder))
        for folder in ("imagesTr", "labelsTr", "imagesTs")
    )
    refuse_orphans(training, labels)
    cases = [
        Case(name, name, image, labels.get(name), modality=modality)
        for name, image in training.items()
    ]
    cases += [Case(name, name, image, modality=modality) for name, image in test.items()]
    if len(names) > 1:
        cases = [_one_channel(case, chosen, len(names)) for case in cases]
    return Dataset(NAME, root, tuple(cases), labels_of_description(root, description))


def _refuse_missing(root: Path, description: dict[str, Any]) -> None:
    """Every training file that ``dataset.json`` lists must be there (test images need not be)."""
    entries = description.get("training", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PosconError(
            f'{root / "dataset.json"}: training must be a list of {{"image": ..., "label": ...}}'
        )
    listed = [root / path for entry in entries for path in entry.values()]
    missing = [path for path in listed if not path.is_file()]
    if missing:
        raise PosconError(
            f"{missing[0]}: listed in dataset.json but missing "
            f"({len(missing)} of {len(listed)} training files are); fetch the data set again"
        )


def _one_channel(case: Case, channel: int, channels: int) -> Case:
    shape = read_shape(case.image)
    if shape[3:] != (channels,):
        raise PosconError(
            f"{case.image}: shape {shape}, but dataset.json states {channels} channels; "
            "correct its modality entry or the file"
        )
    return replace(case, frame_index=channel)


LAYOUT = Layout(
    NAME,
    "Medical Segmentation Decathlon: dataset.json, imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz, "
    "imagesTs/",
    matches,
    read,
)
