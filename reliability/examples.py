"""Small valid files for the trials: DICOM, plans of nnU-Net, and a data set with two runs."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.progress import silent
from poscon.volumes.phantom import write_phantom


def make_runs(folder: Path) -> tuple[Path, Path, Path, Path]:
    """A data set of phantoms, its store, a run of a pre-training and one of a fine-tuning."""
    scans, store = folder / "scans", folder / "store"
    write_phantom(scans, subjects=3, seed=7)
    tiny = ["network.width=4", "network.levels=2", "size=32", "batch=16"]
    with silent():
        prepare(scans, store, spacing=6.0, processes=1)
        pretrain(store, folder / "pretrain", epochs=1, settings=tiny)
        finetune(
            store,
            folder / "finetune",
            init=folder / "pretrain",
            method="supervised",
            iterations=60,
            settings=["size=32", "batch=8"],
        )
    return scans, store, folder / "pretrain", folder / "finetune"


def write_slice(path: Path, pixels: np.ndarray, number: int, **tags: Any) -> None:
    """Write a slice of a CT as a DICOM file.

    Args:
        path: the file.
        pixels: (rows, columns) int16.
        number: of the slice, from 0; slices are 2.5 mm apart.
        tags: further attributes, or other values of them.
    """
    file = _dicom(path, CTImageStorage)
    rows, columns = pixels.shape
    content = {
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "FrameOfReferenceUID": "1.2.3.3",
        "SeriesNumber": 4,
        "Modality": "CT",
        "PatientID": "1",
        "InstanceNumber": number + 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelSpacing": [0.75, 1.25],
        "SliceThickness": 2.5,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-10.0, -20.0, 30.0 + 2.5 * number],
        **tags,
    }
    file.PixelData = pixels.tobytes()
    for name, value in content.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def write_structures(path: Path) -> Path:
    """Write an RTSTRUCT with a square on the first slice of :func:`write_slice`."""
    file = _dicom(path, RTStructureSetStorage)
    file.Modality = "RTSTRUCT"
    region, contour, drawn = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName = 1, "liver"
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.ContourData = [-9, -19.5, 30, -6, -19.5, 30, -6, -18, 30, -9, -18, 30]
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, [contour]
    file.StructureSetROISequence, file.ROIContourSequence = [region], [drawn]
    file.save_as(path, enforce_file_format=True)
    return path


def _dicom(path: Path, kind: str) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    return file


def nnunet_plans() -> dict[str, Any]:
    """What ``nnUNetPlans.json`` has that is read of it."""
    library = "dynamic_network_architectures.architectures.unet"
    architecture = {
        "network_class_name": f"{library}.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [2, 4],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * 2,
            "strides": [[1, 1], [2, 2]],
            "n_conv_per_stage": [2, 2],
            "n_conv_per_stage_decoder": [2],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    two = {
        "patch_size": [32, 24],
        "spacing": [6.0, 6.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": architecture,
    }
    return {"dataset_name": "Dataset001_X", "configurations": {"2d": two}}
