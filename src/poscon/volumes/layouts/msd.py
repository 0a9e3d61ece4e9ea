"""Medical Segmentation Decathlon: one folder per task.

Antonelli et al., Nature Communications 2022, http://medicaldecathlon.com. Files:
``dataset.json``, ``imagesTr/CASE.nii.gz``, ``labelsTr/CASE.nii.gz`` and, unlabelled,
``imagesTs/CASE.nii.gz``. Images of several modalities are 4-D with the channel last.
All channels are read, or the one that is chosen.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from poscon.errors import PosconError
from poscon.volumes.case import Case, Channel, Dataset
from poscon.volumes.layouts.base import Layout, by_case, refuse_orphans, scan_files
from poscon.volumes.layouts.dataset_json import (
    channel_names,
    choose_channels,
    labels_of_description,
    modality_of,
    notes_of_description,
    read_description,
    require_description,
)
from poscon.volumes.scan import read_shape, scan_stem

NAME = "msd"


def matches(root: Path) -> bool:
    return "modality" in read_description(root) and (root / "imagesTr").is_dir()


def read(root: Path, channel: int | str | None) -> Dataset:
    description = require_description(root)
    names = channel_names(root, description)
    chosen = choose_channels(root, names, channel)
    modalities = {number: modality_of(name) or "MR" for number, name in chosen.items()}
    modality = next(iter(modalities.values()))
    _check_training(root, description)

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
        cases = [_with_channels(case, modalities, len(names)) for case in cases]
    return Dataset(
        NAME,
        root,
        tuple(cases),
        labels_of_description(root, description),
        notes=notes_of_description(root, description, len(labels)),
        channels=tuple(chosen.values()),
    )


def _check_training(root: Path, description: dict[str, Any]) -> None:
    """Check that the training files of ``dataset.json`` exist and are paired as they are here.

    Further fields of an entry, such as ``fold``, say nothing about files. Test images need not
    exist.
    """
    path = root / "dataset.json"
    entries = description.get("training", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PosconError(f'{path}: training must be a list of {{"image": ..., "label": ...}}')
    listed: list[Path] = []
    for entry in entries:
        named = {
            folder: _file_names(entry.get(key, []), path)
            for key, folder in (("image", "imagesTr"), ("label", "labelsTr"))
        }
        for folder, names in named.items():
            for name in names:
                if (root / name).parent.resolve() != (root / folder).resolve():
                    raise PosconError(
                        f"{path}: {name} is listed but not in {folder}, from where the files are "
                        "read; move the file there"
                    )
                listed.append(root / name)
        images, labels = ({Path(name).name for name in names} for names in named.values())
        if labels and images and not labels <= images:
            raise PosconError(
                f"{path}: pairs {min(images)} with {min(labels)}, but image and label map must "
                "have the same name; rename one"
            )
    missing = [file for file in listed if not file.is_file()]
    if missing:
        raise PosconError(
            f"{missing[0]}: listed in dataset.json but missing "
            f"({len(missing)} of {len(listed)} training files are); fetch the data set again"
        )


def _file_names(stated: Any, path: Path) -> list[str]:
    """The file names in a field of an entry. A field has one or several."""
    names = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(name, str) for name in names):
        raise PosconError(f"{path}: an entry of training names {stated!r}, which is no file name")
    return names


def _with_channels(case: Case, modalities: dict[int, str], stated: int) -> Case:
    """Give a case the chosen channels of its 4-D file."""
    shape = read_shape(case.image)
    if shape[3:] != (stated,):
        raise PosconError(
            f"{case.image}: shape {shape}, but dataset.json states {stated} channels; "
            "correct its modality entry or the file"
        )
    channels = (Channel(case.image, number, name) for number, name in modalities.items())
    return replace(case, channels=tuple(channels))


LAYOUT = Layout(
    NAME,
    "Medical Segmentation Decathlon: dataset.json, imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz, "
    "imagesTs/",
    matches,
    read,
)
