"""TotalSegmentator: CT or MR with one mask per organ.

Wasserthal et al., Radiology: Artificial Intelligence 2023,
https://github.com/wasserth/TotalSegmentator. Files: ``SUBJECT/ct.nii.gz`` (or ``mri.nii.gz``) and
``SUBJECT/segmentations/ORGAN.nii.gz``. The organs, sorted by name, are the classes. They have the
values 1, 2, 3 and so on. Masks that overlap are refused when they are read.
"""

from pathlib import Path

from poscon.volumes.case import Case, Dataset
from poscon.volumes.label_maps import label_masks, mask_scheme
from poscon.volumes.layouts.base import Layout, by_case, refuse_channel, refuse_orphans, scan_files
from poscon.volumes.scan import scan_stem

NAME = "totalsegmentator"
MASKS = "segmentations"
_MODALITY = {"ct": "CT", "mri": "MR"}


def matches(root: Path) -> bool:
    return any((path.parent / MASKS).is_dir() for path in _images(root).values())


def read(root: Path, channel: int | str | None) -> Dataset:
    refuse_channel(channel, NAME)
    images = _images(root)
    masks = {
        path.parent.name: path for path in sorted(root.glob(f"*/{MASKS}")) if label_masks(path)
    }
    refuse_orphans(images, masks)
    cases = [
        Case(name, name, image, masks.get(name), modality=_MODALITY[scan_stem(image).lower()])
        for name, image in images.items()
    ]
    labels = mask_scheme(masks.values(), where=str(root))
    return Dataset(NAME, root, tuple(cases), labels)


def _images(root: Path) -> dict[str, Path]:
    """The scans by subject."""
    files = scan_files(root, "*/*")
    return by_case(
        (path.parent.name, path) for path in files if scan_stem(path).lower() in _MODALITY
    )


LAYOUT = Layout(
    NAME,
    "TotalSegmentator: SUBJECT/ct.nii.gz or mri.nii.gz, SUBJECT/segmentations/ORGAN.nii.gz",
    matches,
    read,
)
