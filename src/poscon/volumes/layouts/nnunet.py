"""nnU-Net raw data, versions 1 and 2: one file per channel.

https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md. Files: ``dataset.json``,
``imagesTr/CASE_0000.nii.gz`` (the last four digits are the channel), ``labelsTr/CASE.nii.gz``
and, unlabelled, ``imagesTs/CASE_0000.nii.gz``. All channels are read, or the one that is chosen.
"""

import re
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.case import Case, Channel, Dataset
from poscon.volumes.layouts.base import Layout, by_case, refuse_orphans, scan_files
from poscon.volumes.layouts.dataset_json import (
    FILE,
    channel_names,
    choose_channels,
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
    # Version 1 has the Decathlon's dataset.json. The channel in the file names tells them apart.
    images = scan_files(root, "imagesTr/*_0000.*")
    own_label = [path for path in images if (root / "labelsTr" / path.name).is_file()]
    return "modality" in description and bool(images) and not own_label


def read(root: Path, channel: int | str | None) -> Dataset:
    description = require_description(root)
    if "dataset" in description:
        raise PosconError(
            f"{root / FILE}: lists its files under 'dataset', which poscon does not read; put them "
            "into imagesTr and labelsTr"
        )
    names = channel_names(root, description)
    chosen = choose_channels(root, names, channel)
    modalities = {number: modality_of(name) for number, name in chosen.items()}
    ending = description.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise PosconError(
            f"{root / FILE}: file_ending {ending!r} is not read; poscon reads {', '.join(SUFFIXES)}"
        )

    training = _images(root / "imagesTr", ending, modalities)
    test = _images(root / "imagesTs", ending, modalities)
    labels = by_case(
        (scan_stem(path), path) for path in scan_files(root / "labelsTr", f"*{ending}")
    )
    refuse_orphans(training, labels)
    several = len(names) > 1
    cases = [
        Case(
            name,
            name,
            channels[0].file,
            labels.get(name) if part is training else None,
            modality=channels[0].modality,
            channels=channels if several else (),
        )
        for part in (training, test)
        for name, channels in part.items()
    ]
    return Dataset(
        NAME,
        root,
        tuple(cases),
        labels_of_description(root, description),
        notes=notes_of_description(root, description, len(labels)),
        channels=tuple(chosen.values()),
    )


def _images(
    folder: Path, ending: str, modalities: dict[int, str | None]
) -> dict[str, tuple[Channel, ...]]:
    """The files of the chosen channels by case.

    Raises:
        PosconError: a name has no channel, or a case lacks one of the channels.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in scan_files(folder, f"*{ending}"):
        name = _IMAGE.fullmatch(scan_stem(path))
        if name is None:
            raise PosconError(f"{path}: the name has no channel; nnU-Net's is CASE_0000{ending}")
        found.setdefault(name["case"], {})[int(name["channel"])] = path
    images = {}
    for case, files in found.items():
        missing = [number for number in modalities if number not in files]
        if missing:
            raise PosconError(
                f"{folder / case}_{missing[0]:04d}{ending}: no such file, but the case has other "
                "channels; add the file, or choose a channel with --channel"
            )
        images[case] = tuple(
            Channel(files[number], None, modality) for number, modality in modalities.items()
        )
    return images


LAYOUT = Layout(
    NAME,
    "nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, imagesTs/",
    matches,
    read,
)
