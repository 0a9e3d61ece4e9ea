"""Tiny DICOM files, with planted names of a patient."""

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

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


def write_seg(
    path: Path,
    images: Iterable[Path],
    planes: np.ndarray,
    names: Sequence[str],
    kind: str = "BINARY",
    **how: Any,
) -> Path:
    """Write a SEG, by highdicom.

    Args:
        path: the file.
        images: one file per slice, in any order; those of a series of this module.
        planes: numbers of segments, or fractions with the segments along a last axis: one plane per
            image in the order of the position along the normal.
        names: labels of the segments 1, 2 and so on.
        kind: ``BINARY``, ``FRACTIONAL`` or ``LABELMAP``.
        how: further arguments of highdicom.
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    headers = [dcmread(image) for image in images]
    for header in headers:
        header.FrameOfReferenceUID = uid("space")
        header.SliceThickness = 1.0
        for name in ("PatientSex", "StudyID", "StudyDate", "StudyTime"):
            setattr(header, name, "")
    normal = np.cross(*np.array(headers[0].ImageOrientationPatient).reshape(2, 3))
    headers.sort(key=lambda header: float(normal @ np.array(header.ImagePositionPatient)))
    made = Segmentation(
        source_images=headers,
        pixel_array=planes,
        segmentation_type=kind,
        segment_descriptions=[
            SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Tissue,
                algorithm_type="MANUAL",
            )
            for number, name in enumerate(names, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=7,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Planted Hospital",
        manufacturer_model_name="drawn",
        software_versions="1",
        device_serial_number="1",
        **how,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return path


def write_rtstruct(
    path: Path,
    images: Sequence[Path],
    regions: dict[str, list[np.ndarray]],
    *,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write an RTSTRUCT.

    Args:
        path: the file.
        images: files of the series that it names.
        regions: the contours of each region, (points, 3) in mm, LPS+.
        kind: of every contour.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = uid(path)
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in {**PLANTED, "Modality": "RTSTRUCT"}.items():
        setattr(file, name, value)
    file.SOPClassUID, file.SOPInstanceUID = RTStructureSetStorage, uid(path)
    file.StudyInstanceUID, file.SeriesInstanceUID = uid("study"), uid(path, "series")
    first = dcmread(images[0])
    named = [
        sequence(ReferencedSOPClassUID=first.SOPClassUID, ReferencedSOPInstanceUID=one)[0]
        for one in (dcmread(image).SOPInstanceUID for image in images)
    ]
    of_series = sequence(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=named)
    of_study = sequence(RTReferencedSeriesSequence=of_series, ReferencedSOPInstanceUID=uid("study"))
    file.ReferencedFrameOfReferenceSequence = sequence(
        FrameOfReferenceUID=uid("space"), RTReferencedStudySequence=of_study
    )
    file.StructureSetROISequence = [
        sequence(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=uid("space"))[0]
        for number, name in enumerate(regions, start=1)
    ]
    file.ROIContourSequence = [
        sequence(
            ReferencedROINumber=number,
            ContourSequence=[
                sequence(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[float(f"{value:.10g}") for value in points.ravel()],
                )[0]
                for points in contours
            ],
        )[0]
        for number, contours in enumerate(regions.values(), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def phantom(scans: Path, number: int) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A phantom of whole numbers and its label map, on the grid that its DICOM series has."""
    name = f"phantom_{number:03d}.nii.gz"
    image, label = (
        nib.as_closest_canonical(nib.load(scans / folder / name))
        for folder in ("imagesTr", "labelsTr")
    )
    middle = image.shape[2] // 2  # a few slices are enough
    image, label = (one.slicer[:, :, middle - 6 : middle + 6] for one in (image, label))
    whole = np.rint(np.asanyarray(image.dataobj)).astype(np.int16)
    return nib.Nifti1Image(whole, image.affine), label


def texts(folder: Path) -> dict[str, bytes]:
    """The content of every file, and the path of each."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        found[str(path)] = content + str(path.relative_to(folder)).encode()
    assert found
    return found


def assert_nobody(folder: Path) -> None:
    """Nothing that is written in a folder says who was scanned."""
    for path, content in texts(folder).items():
        for planted in PLANTED.values():
            assert planted.encode() not in content, f"{planted} in {path}"
