"""CHD: cardiac CT of congenital heart disease, seven structures.

Xu et al., ImageCHD, MICCAI 2020. Files: ``ct_1001_image.nii.gz`` and ``ct_1001_label.nii.gz``,
numbered 1001 to 1128 with gaps.
"""

import re
from dataclasses import replace
from pathlib import Path

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, pair_files, refuse_channel, scan_files
from poscon.volumes.scan import scan_stem

NAME = "chd"
LABELS = replace(parse_labels("1=LV,2=RV,3=LA,4=RA,5=MYO,6=AO,7=PA"), background_above=7)
_NAME = re.compile(r"(?P<case>ct_\d{4})_(?:image|(?P<label>label))")


def matches(root: Path) -> bool:
    return any(_NAME.fullmatch(scan_stem(path)) for path in scan_files(root))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    cases = tuple(
        Case(pair.name["case"], pair.name["case"], pair.image, pair.label, modality="CT")
        for pair in pair_files(scan_files(root), _NAME)
    )
    notes = ("Label values above 7 (vessels beyond the seven structures) are background.",)
    return Dataset(NAME, root, cases, LABELS, notes=notes)


LAYOUT = Layout(
    NAME,
    "CHD cardiac CT: ct_1001_image.nii.gz, ct_1001_label.nii.gz",
    matches,
    read,
)
