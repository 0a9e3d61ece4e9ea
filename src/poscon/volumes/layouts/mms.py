"""M&Ms: short-axis cardiac MRI of several vendors, end-diastole and end-systole.

Campello et al., IEEE TMI 2021, https://www.ub.edu/mnms/, as one file a labelled frame:
``[vendor_X/]SUBJECT/SUBJECT_sa_{ED,ES}.nii.gz`` and ``..._gt.nii.gz``.
"""

import re
from pathlib import Path

import numpy as np

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, pair_files, refuse_channel, scan_files
from poscon.volumes.scan import read_header, scan_stem

NAME = "mms"
LABELS = parse_labels("3=RV,2=MYO,1=LV")  # the canonical order of ACDC, with M&Ms' own values
NOMINAL_SPACING = (1.25, 1.25, 10.0)
"""Usual spacing of these protocols in mm, for files whose header lost the true one."""
_NAME = re.compile(r"(?P<case>(?P<subject>\w+)_sa_(?P<frame>ED|ES))(?P<label>_gt)?")


def matches(root: Path) -> bool:
    return any(_NAME.fullmatch(scan_stem(path)) for path in _files(root))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    cases = []
    for pair in pair_files(_files(root), _NAME):
        lost = np.allclose(read_header(pair.image).spacing, 1.0, atol=1e-3)
        case = Case(
            pair.name["case"],
            pair.name["subject"],
            pair.image,
            pair.label,
            frame=pair.name["frame"],
            spacing=NOMINAL_SPACING if lost else None,
            modality="MR",
        )
        cases.append(case)
    notes = ["The slice order is mixed: apex to base in most volumes, base to apex in others."]
    if lost_count := sum(case.spacing is not None for case in cases):
        notes.append(
            f"The header of {lost_count} of {len(cases)} files says 1 x 1 x 1 mm: their spacing "
            f"is lost, and {NOMINAL_SPACING[0]:g} x {NOMINAL_SPACING[1]:g} x "
            f"{NOMINAL_SPACING[2]:g} mm is nominal; trust no millimetre of them."
        )
    return Dataset(NAME, root, tuple(cases), LABELS, {"spacing": 1.25}, tuple(notes))


def _files(root: Path) -> list[Path]:
    return scan_files(root, "*/*_sa_*") + scan_files(root, "vendor_*/*/*_sa_*")


LAYOUT = Layout(
    NAME,
    "M&Ms cardiac MRI: [vendor_X/]SUBJECT/SUBJECT_sa_{ED,ES}.nii.gz, ..._gt.nii.gz",
    matches,
    read,
)
