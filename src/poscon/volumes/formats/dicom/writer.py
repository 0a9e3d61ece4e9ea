"""DICOM-SEG out, by highdicom: a label map as an object that belongs to a series.

The object has the patient and the study of its series, because a PACS could not file it otherwise.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom import (
    UID,
    AlgorithmIdentificationSequence,
    PlanePositionSequence,
)
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM

from poscon.errors import PosconError
from poscon.files import complete
from poscon.version import __version__
from poscon.volumes.formats.dicom.files import read_file
from poscon.volumes.formats.dicom.headers import flat_frames
from poscon.volumes.series import Fault, Series

# a message of highdicom may quote the name of a patient
logging.getLogger("highdicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="highdicom")

LONGEST_NAME = 64
"""Characters of a segment's label, by PS3.5."""
_SERIES_NUMBER = 1000  # is added to that of the series
_STATED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime"),
)
"""What a SEG must have, if only empty."""
_TIMES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def check_names(names: Sequence[str]) -> None:
    """Refuse names of classes that cannot be labels of segments.

    Raises:
        PosconError: one cannot.
    """
    for name in names:
        if len(name) > LONGEST_NAME or "\\" in name:
            raise PosconError(
                f"--to seg: the class {name!r} cannot be a segment, whose label has at most "
                f"{LONGEST_NAME} characters and no backslash; leave --to out"
            )


def check_series(series: Series) -> None:
    """Refuse a series to which no SEG can belong.

    Raises:
        PosconError: it has several frames, slices that are no image of their own, or no
            identifiers; or it cannot be read.
    """
    fault = series.fault or _fault(series)
    if fault is not None:
        raise PosconError(f"{series}: {fault}")


def _fault(series: Series) -> Fault | None:
    """Why no SEG can belong to a series that can be read; None if one can."""
    if len(series.shape) > 3:
        return Fault(
            f"has {series.shape[3]} frames, and a SEG is of one volume; leave --to seg out"
        )
    if series.mixes:
        return Fault(
            "has interpolated slices, which its images do not have; say --on-gap split, or leave "
            "--to seg out"
        )
    if any(piece.tiles is not None for piece in series.pieces):
        return Fault(
            "is a mosaic, whose slices have no identifiers of their own; leave --to seg out"
        )
    header = _header(series.files[0])
    missing = [name for name in _NEEDED if not header.get(name)]
    if missing:
        return Fault(f"has no {missing[0]}, which a SEG needs; leave --to seg out")
    if header.get("PerFrameFunctionalGroupsSequence") and len(series.files) > 1:
        return Fault(
            "has several files of several frames each, and a SEG belongs to one of them; leave "
            "--to seg out"
        )
    return None


def write_segments(
    path: Path, labels: np.ndarray, series: Series, classes: dict[int, str], model: str
) -> None:
    """Write a label map as a SEG, complete or absent.

    Args:
        path: file to write.
        labels: (X, Y, Z) whole numbers, on the grid of the series.
        series: the series, which :func:`check_series` has passed.
        classes: the name of each label value, in the order of the segments.
        model: hash of the model's file, which stands as the serial number of the device.

    Raises:
        PosconError: the headers of the series do not allow it, or the disk is full.
    """
    images = [_usable(_header(file), series) for file in series.files]
    for image in images:  # some scanners round the directions otherwise in every file
        if "ImageOrientationPatient" in image:
            image.ImageOrientationPatient = images[0].ImageOrientationPatient
    numbers = np.zeros(labels.shape, np.uint8)
    for number, value in enumerate(classes, start=1):
        numbers[labels == value] = number
    try:
        made = Segmentation(
            source_images=images,
            pixel_array=np.ascontiguousarray(numbers.transpose(2, 1, 0)),
            segmentation_type="BINARY",
            segment_descriptions=_descriptions(classes, model),
            series_instance_uid=UID(),
            series_number=_SERIES_NUMBER + int(images[0].get("SeriesNumber") or 0),
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="poscon",
            manufacturer_model_name="poscon",
            software_versions=__version__,
            device_serial_number=model,
            series_description="Segmentation by poscon",
            content_label="SEGMENTATION",
            plane_positions=_positions(series, images),
            specific_character_set="ISO_IR 192",
        )
        # the first is the scanner with its hospital, the last is highdicom
        made.ContributingEquipmentSequence = made.ContributingEquipmentSequence[-1:]
        with complete(path) as part:
            made.save_as(part, enforce_file_format=True)
    except PosconError:
        raise
    except Exception as error:  # of many kinds, and its text may quote the header
        raise PosconError(
            f"{series}: its headers do not allow a SEG ({type(error).__name__}); leave --to seg out"
        ) from error


def _descriptions(classes: dict[int, str], model: str) -> list[SegmentDescription]:
    """What is said of each segment. The codes are as general as the names are unknown."""
    algorithm = AlgorithmIdentificationSequence(
        name="poscon",
        version=__version__,
        family=codes.cid7162.ArtificialIntelligence,
        parameters={"model_sha256": model},
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(classes.values(), start=1)
    ]


def _header(file: Path) -> Dataset:
    return read_file(file, stop_before_pixels=True)


def _usable(header: Dataset, series: Series) -> Dataset:
    """A header with what highdicom takes from it, where a file leaves it out or says it elsewhere.

    Where the coordinate system has no name, as in many files without names of patients, it gets
    one that is the same for the whole series.
    """
    for name in _STATED:
        if name not in header:
            setattr(header, name, "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    for name, kind in _TIMES.items():
        try:
            kind(header.get(name))
        except ValueError:  # what stands there is no date and no time
            setattr(header, name, "")
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(header.SeriesInstanceUID)])
    frames = list(flat_frames(header))
    geometry = frames[0] if frames else header
    measures, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient = geometry.get("ImageOrientationPatient")
    measures.PixelSpacing = geometry.get("PixelSpacing")
    measures.SliceThickness = geometry.get("SliceThickness") or _distance(series)
    if frames:
        (shared,) = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        shared.PixelMeasuresSequence = [measures]
        shared.PlaneOrientationSequence = [orientation]
        header.SharedFunctionalGroupsSequence = [shared]
    else:
        header.SliceThickness = measures.SliceThickness
    return header


def _distance(series: Series) -> float:
    """From slice to slice along the normal, in mm."""
    affine = np.array(series.affine)[:3, :3]
    normal = np.cross(affine[:, 0], affine[:, 1])
    return round(abs(float(affine[:, 2] @ normal / np.linalg.norm(normal))), 6)


def _positions(series: Series, images: Sequence[Dataset]) -> list[PlanePositionSequence]:
    """The place of every slice, as its header states it."""
    found = {}
    for file, header in zip(series.files, images, strict=True):
        frames = list(flat_frames(header)) or [header]
        for index, frame in enumerate(frames):
            found[file, index] = frame.get("ImagePositionPatient")
    return [
        PlanePositionSequence("PATIENT", found[piece.file, piece.index]) for piece in series.pieces
    ]
