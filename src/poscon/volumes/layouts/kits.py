"""KiTS: abdominal CT with kidney, tumour and cyst.

Heller et al., Medical Image Analysis 2021, https://github.com/neheller/kits23. Files:
``[dataset/]case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``; KiTS21 has
``aggregated_MAJ_seg.nii.gz``, the majority of its annotators, in place of the latter. The files of
single annotators are not read.
"""

from pathlib import Path

from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.layouts.base import Layout, by_case, refuse_channel, refuse_orphans, scan_files
from poscon.volumes.scan import scan_stem

NAME = "kits"
LABELS = parse_labels("1=kidney,2=tumor,3=cyst")
_HOMES = (".", "data", "dataset")
_LABELS = ("segmentation", "aggregated_MAJ_seg")  # the first one that exists is read


def matches(root: Path) -> bool:
    return bool(_files(root, "imaging"))


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    images, labels = _files(root, "imaging"), [_files(root, name) for name in _LABELS]
    for found in labels:
        refuse_orphans(images, found)
    cases = []
    for case, image in images.items():
        label = next((found[case] for found in labels if case in found), None)
        cases.append(Case(case, case, image, label, modality="CT"))
    return Dataset(NAME, root, tuple(cases), LABELS)


def _files(root: Path, stem: str) -> dict[str, Path]:
    """The files of one name, by case."""
    files = [path for home in _HOMES for path in scan_files(root / home, f"case_*/{stem}.*")]
    found = [path for path in files if scan_stem(path) == stem]
    return by_case((path.parent.name, path) for path in found)


LAYOUT = Layout(
    NAME,
    "KiTS kidney CT: [dataset/]case_00000/imaging.nii.gz, segmentation.nii.gz or "
    "aggregated_MAJ_seg.nii.gz",
    matches,
    read,
)
