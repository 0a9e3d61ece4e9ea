"""Every layout as a tiny data set under its own file names, for the tests of layouts."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from dicom_examples import write_series

from poscon.volumes.case import Dataset

MILLIMETRES = (1.4, 1.4, 8.0)


def put(root: Path, *names: str, frames: int = 0, spacing: tuple[float, ...] = MILLIMETRES) -> None:
    """Write a tiny scan under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (3, 4, 2, frames) if frames else (3, 4, 2)
        if name.endswith((".nii", ".nii.gz")):
            nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([*spacing, 1])), path)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 4, 3))), str(path))


def describe(root: Path, **content: Any) -> None:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def ids(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases]


def labelled(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases if case.label]


def put_acdc(root: Path) -> None:
    for patient, (ed, es) in {"patient001": (1, 12), "patient002": (2, 9)}.items():
        for frame in (ed, es):
            name = f"{patient}/{patient}_frame{frame:02d}"
            put(root, f"{name}.nii.gz", f"{name}_gt.nii.gz")
        (root / patient / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\n")


def put_mms(root: Path, **how: Any) -> None:
    for subject in ("A0S9V9", "B3F0V9"):
        for frame in ("ED", "ES"):
            name = f"{subject}/{subject}_sa_{frame}"
            put(root, f"{name}.nii.gz", f"{name}_gt.nii.gz", **how)


def put_msd(root: Path, **changes: Any) -> None:
    put(root, "imagesTr/spleen_2.nii.gz", "imagesTr/spleen_3.nii.gz", "imagesTs/spleen_1.nii.gz")
    put(root, "labelsTr/spleen_2.nii.gz", "labelsTr/spleen_3.nii.gz")
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("spleen_2", "spleen_3")
        ],
        "test": ["./imagesTs/spleen_1.nii.gz"],
    }
    describe(root, **(content | changes))


def put_nnunet(root: Path, channels: int = 1, **changes: Any) -> None:
    for channel in range(channels):
        put(root, *(f"imagesTr/heart_{case}_{channel:04d}.nii.gz" for case in (1, 2)))
        put(root, f"imagesTs/heart_3_{channel:04d}.nii.gz")
    put(root, "labelsTr/heart_1.nii.gz", "labelsTr/heart_2.nii.gz")
    content = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": {"background": 0, "LV": 3, "RV": 1},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    describe(root, **(content | changes))


def put_chd(root: Path) -> None:
    put(root, *(f"ct_{n}_{kind}.nii.gz" for n in (1001, 1128) for kind in ("image", "label")))


def put_mmwhs(root: Path) -> None:
    for name in ("ct_train_1001", "mr_train_1001"):
        put(root, f"{name}_image.nii.gz", f"{name}_label.nii.gz")
    put(root, "ct_test_2001_image.nii.gz")


def put_hvsmr(root: Path) -> None:
    for number in (0, 9):
        name = f"training_sa_crop_pat{number}"
        put(root, f"{name}.nii.gz", f"{name}-label.nii.gz")


def put_totalsegmentator(root: Path) -> None:
    for subject, image in (("s0001", "ct"), ("s0002", "ct"), ("s0003", "mri")):
        put(root, f"{subject}/{image}.nii.gz")
        put(root, *(f"{subject}/segmentations/{organ}.nii.gz" for organ in ("spleen", "liver")))


def put_kits(root: Path) -> None:
    put(root, "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz")
    put(root, "case_00001/imaging.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz")
    put(root, "case_00210/imaging.nii.gz")


def put_bids(root: Path) -> None:
    for subject in ("sub-01", "sub-02"):
        put(root, f"{subject}/anat/{subject}_T1w.nii.gz")
        put(root, f"derivatives/manual/{subject}/anat/{subject}_T1w_dseg.nii.gz")


def put_dicom(root: Path) -> None:
    for name in ("one", "two"):
        write_series(root / name, np.zeros((3, 4, 5), np.int16), name=name)
        put(root, f"{name}_seg.nii.gz")


def put_table(root: Path, *lines: str, heading: str = "image,label,subject,split") -> Path:
    """Write a table of paths in a folder of its own; without lines, one with its scans."""
    if not lines:
        put(root, "p1/t2.nii.gz", "p1/t2_gt.nii.gz", "p2/t2.nii.gz")
        lines = ("../p1/t2.nii.gz,../p1/t2_gt.nii.gz,p1,train", f"{root}/p2/t2.nii.gz,,,test")
    table = root / "tables" / "data.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join([heading, *lines]) + "\n")
    return table


def put_plain(root: Path) -> None:
    put(root, "a.nii.gz", "b.nrrd", "c.mha")


PUT = {
    "acdc": put_acdc,
    "mms": put_mms,
    "mmwhs": put_mmwhs,
    "chd": put_chd,
    "hvsmr": put_hvsmr,
    "nnunet": put_nnunet,
    "msd": put_msd,
    "totalsegmentator": put_totalsegmentator,
    "kits": put_kits,
    "bids": put_bids,
    "dicom": put_dicom,
    "csv": put_table,
    "plain": put_plain,
}

FOLDERS = [name for name in PUT if name != "csv"]
"""The layouts that are folders."""
