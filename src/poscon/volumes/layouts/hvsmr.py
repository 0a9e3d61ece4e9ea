"""HVSMR 2016: cardiac MRI of congenital heart disease, myocardium (MYO) and blood pool (BP).

Pace et al., MICCAI 2015, http://segchd.csail.mit.edu. Files: ``training_sa_crop_pat0.nii.gz``
and ``training_sa_crop_pat0-label.nii.gz``; also ``axial`` for ``sa`` and ``full`` for ``crop``.
"""

import re
from pathlib import Path

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, pair_files, refuse_channel, scan_files
from poscon.volumes.scan import scan_stem

NAME = "hvsmr"
LABELS = parse_labels("1=MYO,2=BP")
_NAME = re.compile(
    r"(?P<case>[a-z]+_(?:sa|axial)_(?:crop|full)_(?P<subject>pat\d+))(?P<label>-label)?"
)


def matches(root: Path) -> bool:
    return any(_NAME.fullmatch(scan_stem(path)) for path in scan_files(root))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    cases = tuple(
        Case(pair.name["case"], pair.name["subject"], pair.image, pair.label, modality="MR")
        for pair in pair_files(scan_files(root), _NAME)
    )
    return Dataset(NAME, root, cases, LABELS, {"spacing": 0.7})


LAYOUT = Layout(
    NAME,
    "HVSMR 2016 cardiac MRI: training_sa_crop_pat0.nii.gz, training_sa_crop_pat0-label.nii.gz",
    matches,
    read,
)
