"""MMWHS: whole-heart CT and MRI, seven structures.

Zhuang and Shen, Medical Image Analysis 2016, https://zmiclab.github.io/zxh/0/mmwhs/. Files:
``ct_train_1001_image.nii.gz``, ``ct_train_1001_label.nii.gz``, the same with ``mr``, and
``ct_test_2001_image.nii.gz``; in one folder, or in ``ct_train/``, ``mr_train/`` and so on.
"""

import re
from pathlib import Path

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, pair_files, refuse_channel, scan_files
from poscon.volumes.scan import scan_stem

NAME = "mmwhs"
LABELS = parse_labels("500=LV,600=RV,420+421=LA,550=RA,205=MYO,820=AO,850=PA")
_HOMES = (".", "ct_train", "ct_test", "mr_train", "mr_test")
_NAME = re.compile(r"(?P<case>(?P<modality>ct|mr)_(?:train|test)_\d{4})_(?:image|(?P<label>label))")


def matches(root: Path) -> bool:
    return any(_NAME.fullmatch(scan_stem(path)) for path in _files(root))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    cases = tuple(
        Case(
            pair.name["case"],
            pair.name["case"],
            pair.image,
            pair.label,
            modality=pair.name["modality"].upper(),
        )
        for pair in pair_files(_files(root), _NAME)
    )
    notes = ("Label value 421, a known slip in these files, is read as 420 (LA).",)
    return Dataset(NAME, root, cases, LABELS, {"spacing": 1.0}, notes)


def _files(root: Path) -> list[Path]:
    return [path for home in _HOMES for path in scan_files(root / home)]


LAYOUT = Layout(
    NAME,
    "MMWHS whole-heart CT and MRI: [ct_train/]ct_train_1001_image.nii.gz, ..._label.nii.gz",
    matches,
    read,
)
