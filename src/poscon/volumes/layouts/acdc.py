"""ACDC: short-axis cine cardiac MRI with end-diastole and end-systole labelled.

Bernard et al., IEEE TMI 2018, https://www.creatis.insa-lyon.fr/Challenge/acdc/. Files:
``patientNNN/patientNNN_frameFF.nii.gz`` and ``..._frameFF_gt.nii.gz``, the whole cine
``patientNNN_4d.nii.gz``, and ``Info.cfg``, which says which frame is ED, which is ES, and how many
there are. The cine is one heartbeat, so a frame has a phase, counted from ED.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, pair_files, refuse_channel, scan_files, split_frames
from poscon.volumes.scan import scan_stem

NAME = "acdc"
LABELS = parse_labels("1=RV,2=MYO,3=LV")
_HOMES = (".", "training", "testing", "database/training", "database/testing")
_FRAME = re.compile(r"(?P<case>(?P<subject>patient\d+)_frame(?P<frame>\d+))(?P<label>_gt)?")
_CINE = re.compile(r"(?P<subject>patient\d+)_4d")


def matches(root: Path) -> bool:
    return any(
        _FRAME.fullmatch(scan_stem(path)) or _CINE.fullmatch(scan_stem(path))
        for path in _files(root)
    )


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    files = _files(root)
    cines = {}
    for path in files:
        if cine := _CINE.fullmatch(scan_stem(path)):
            frames = split_frames(Case(cine[0], cine["subject"], path, modality="MR"))
            cines[path.parent, cine["subject"]] = frames
    cases = []
    own = set()
    for pair in pair_files(files, _FRAME):
        subject, number, folder = pair.name["subject"], int(pair.name["frame"]), pair.image.parent
        case = Case(pair.name["case"], subject, pair.image, pair.label, modality="MR")
        cases.append(_in_cycle(case, number, _info(folder), len(cines.get((folder, subject), ()))))
        own.add((subject, number))
    for (folder, _), frames in cines.items():
        info = _info(folder)
        cases += [
            _in_cycle(case, number, info, len(frames))
            for number, case in enumerate(frames, start=1)
            if (case.subject, number) not in own  # else the same picture would be read twice
        ]
    return Dataset(NAME, root, tuple(cases), LABELS, {"spacing": 1.25, "plane": "auto"})


def _files(root: Path) -> list[Path]:
    return [path for home in _HOMES for path in scan_files(root / home, "patient*/patient*")]


def _info(folder: Path) -> Mapping[str, int]:
    """The numbers that a patient's ``Info.cfg`` states: of the frames ED and ES, and how many."""
    info = folder / "Info.cfg"
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    stated = re.findall(r"^\s*(ED|ES|NbFrame)\s*:\s*([0-9]{1,9})\b", text, flags=re.MULTILINE)
    return {name: int(number) for name, number in stated}


def _in_cycle(case: Case, number: int, info: Mapping[str, int], n_frames: int) -> Case:
    """The case as frame ``number``, counted from 1, of the heartbeat.

    Its name is ``ED`` or ``ES`` if the patient's ``Info.cfg`` says so, else ``frameNN``. The number
    of frames is that of the cine, or else that of ``Info.cfg``. It has no phase where ``Info.cfg``
    does not name one of these frames as ED.
    """
    names = {info[name]: name for name in ("ED", "ES") if name in info}
    total = n_frames or info.get("NbFrame", 0)
    start = info.get("ED", 0)
    known = 1 <= number <= total > 1 and 1 <= start <= total
    phase = (number - start) % total / total if known else None
    return replace(case, frame=names.get(number, f"frame{number:02d}"), phase=phase)


LAYOUT = Layout(
    NAME,
    "ACDC cardiac cine MRI: [training/]patientNNN/patientNNN_frameFF.nii.gz, ..._gt.nii.gz, "
    "patientNNN_4d.nii.gz, Info.cfg",
    matches,
    read,
)
