"""Tiny DICOM files, with planted names of a patient."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PLANTED = {
    "PatientName": "Planted^Patient",
    "PatientID": "PLANTED-ID-4711",
    "PatientBirthDate": "19010203",
    "InstitutionName": "Planted Hospital",
    "ReferringPhysicianName": "Planted^Doctor",
    "AccessionNumber": "PLANTED-ACC",
}
AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
"""Columns run to the left, rows run down."""


def uid(*words: object) -> str:
    """The same identifier for the same words."""
    return str(generate_uid(entropy_srcs=[str(word) for word in words]))


def write_image(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write one file; ``x00291010`` and the like are private elements.

    Args:
        path: the file.
        pixels: (rows, columns) or (frames, rows, columns) of 16 bits.
        tags: attributes; None for one that the file does not have.
    """
    modality = tags.get("Modality", "CT")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid(path)
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    rows, columns = pixels.shape[-2:]
    content = {
        **PLANTED,
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": uid(path),
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "SeriesNumber": 4,
        "Modality": modality,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelSpacing": [0.75, 1.25],
        "ImageOrientationPatient": list(AXIAL),
        **tags,
    }
    if pixels.ndim == 3:
        content["NumberOfFrames"] = len(pixels)
    for name, value in content.items():
        if name.startswith("x"):  # the number of a private element
            file.add_new(int(name[1:], 16), "OB", value)
        elif value is not None:
            setattr(file, name, value)
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    name: str = "series",
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    step: Sequence[float] = (0.0, 0.0, 2.5),
    numbers: Iterable[int] | None = None,
    **tags: Any,
) -> list[Path]:
    """Write (slices, rows, columns) as one file per slice.

    Args:
        folder: where to.
        volume: the stored numbers.
        name: of the series; the names of the files say nothing of their order.
        origin: position of the first slice in mm, LPS+.
        step: mm from one slice to the next.
        numbers: how many steps each slice is from the origin; None: 0, 1, 2 and so on.
        tags: further attributes.
    """
    places = list(range(len(volume)) if numbers is None else numbers)
    return [
        write_image(
            folder / f"{name}-{(37 * n + 3) % 101:03d}.dcm",
            pixels,
            **{
                "SeriesInstanceUID": uid(name),
                "InstanceNumber": (5 * n) % 97,
                "ImagePositionPatient": [
                    float(o + s * place) for o, s in zip(origin, step, strict=True)
                ],
                **tags,
            },
        )
        for n, (pixels, place) in enumerate(zip(volume, places, strict=True))
    ]


def sequence(**content: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for name, value in content.items():
        setattr(item, name, value)
    return [item]


def write_like(folder: Path, data: np.ndarray, affine: np.ndarray, **tags: Any) -> list[Path]:
    """Write a volume, (X, Y, Z) whole numbers with an affine (RAS+), as one file per slice."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = (lps[:3, :2] / size[:2]).T
    return write_series(
        folder,
        data.transpose(2, 1, 0).astype(np.int16),
        origin=lps[:3, 3],
        step=lps[:3, 2],
        PixelSpacing=[float(size[1]), float(size[0])],
        ImageOrientationPatient=[float(value) for value in (*row, *column)],
        **tags,
    )
