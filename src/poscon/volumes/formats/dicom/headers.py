"""What a DICOM file says of its slices: where they lie, and what their numbers mean.

Nothing that says who was scanned leaves this module but :attr:`Image.patient`,
:attr:`Image.instance`, :attr:`Image.series` and :attr:`Image.space`, which tell patients, images,
series and coordinate systems apart and are never written.

Terms and attributes are those of the standard, PS3.3
(https://dicom.nema.org/medical/dicom/current/output/html/part03.html).
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from poscon.errors import PosconError
from poscon.volumes.formats.dicom.files import read_file
from poscon.volumes.formats.dicom.mosaic import COUNT, IMAGE, SERIES, is_mosaic, tiles
from poscon.volumes.series import Piece

# a message of pydicom quotes the value that it complains of, which may be a name
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module="pydicom")

MODALITIES = ("CT", "MR")
_SUFFIXES = (".dcm", ".dicom", ".ima")
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"),
    *("FrameOfReferenceUID",),
    *("IssuerOfPatientID", "PatientName", "PatientBirthDate", "SeriesNumber", "Modality"),
    *("ImageType", "InstanceNumber", "AcquisitionNumber", "TemporalPositionIdentifier"),
    *("TriggerTime", "EchoTime", "DiffusionBValue", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "BitsStored"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True)
class Image:
    """One slice.

    Attributes:
        piece: where its pixels are.
        instance: what the standard has to tell two images apart.
        series, patient, space: what tells series, patients and coordinate systems apart.
        number: the number of the series in its study, or None.
        modality: ``"CT"`` or ``"MR"``.
        colour: whether a pixel has several numbers.
        kind: what it shows, such as magnitude, phase, water or fat.
        size: rows and columns.
        pixel_mm: mm from row to row, and from column to column.
        along_row, along_column: unit vectors, LPS+, along which columns and rows are counted.
        position: centre of the first pixel in mm, LPS+.
        order: what tells frames apart: echo time in ms, b-value in s/mm2, temporal position,
            trigger time in ms, acquisition; 0 if it is not stated.
        image_number: number of the image in its series.
    """

    piece: Piece
    instance: str
    series: str
    patient: tuple[str, ...]
    space: str
    number: int | None
    modality: str
    colour: bool
    kind: tuple[str, ...]
    size: tuple[int, int]
    pixel_mm: tuple[float, float]
    along_row: np.ndarray
    along_column: np.ndarray
    position: np.ndarray
    order: tuple[float, ...]
    image_number: float


def check_name(path: Path) -> None:
    """Refuse a file that is no DICOM file, but is named like one.

    Raises:
        PosconError: it is.
    """
    if path.suffix.lower() in _SUFFIXES:
        raise PosconError(
            f"{path}: named like a DICOM file, but it is none ({path.stat().st_size} bytes); fetch "
            "it again, or move it away"
        )


def read_images(path: Path) -> list[Image] | str:
    """Read what a file says of its slices.

    Args:
        path: a DICOM file.

    Returns:
        The slices, or what kind of object it is if it holds none of a volume.

    Raises:
        PosconError: the header cannot be read.
    """
    try:
        header = read_file(
            path,
            stop_before_pixels=True,
            specific_tags=[*(_tag(name) for name in _TAGS), IMAGE, SERIES, COUNT],
        )
        return _images(path, header)
    except PosconError:
        raise
    except Exception as error:  # of many kinds, and its text may quote the header
        raise PosconError(
            f"{path}: its DICOM header cannot be read ({type(error).__name__}); is it damaged? "
            "Fetch it again, or move it away"
        ) from error


def check_keyword(keyword: str, option: str, *, example: str) -> None:
    """Refuse a keyword that no attribute of DICOM has.

    Args:
        keyword: the keyword.
        option: of the command line, which names it.
        example: a keyword that the message recommends.
    """
    if tag_for_keyword(keyword) is None:
        raise PosconError(
            f"{option} {keyword}: DICOM has no attribute of this name; give its keyword, such as "
            f"{example}"
        )


def read_value(path: Path, keyword: str) -> str:
    """The text of one attribute of a file, such as ``PatientID``; empty if it has none.

    Several values are put together with backslashes, as DICOM writes them.
    """
    header = read_file(path, stop_before_pixels=True, specific_tags=[_tag(keyword)])
    value = header.get(keyword)
    if isinstance(value, MultiValue):
        value = "\\".join(map(str, value))
    return "" if value is None else str(value).strip()


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag


def _images(path: Path, header: Dataset) -> list[Image] | str:
    if "Rows" not in header or "Columns" not in header:
        return "DICOM object(s) without an image"
    modality = str(header.get("Modality", ""))
    if modality not in MODALITIES:
        return "DICOM image(s) that are neither CT nor MR"
    image_type = _texts(header.get("ImageType"))
    if "LOCALIZER" in image_type:
        return "localiser(s)"
    if is_mosaic(header):
        return [_image(path, header, tile, piece) for piece, tile in tiles(path, header)]
    if header.get("PerFrameFunctionalGroupsSequence"):
        found = list(flat_frames(header))
    else:
        found = [{name: header.get(name) for name in _TAGS if name in header}]
    needed = {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"}
    if any(needed - flat.keys() for flat in found):
        return "DICOM image(s) without a place in space"
    return [_image(path, header, flat, Piece(path, n)) for n, flat in enumerate(found)]


def flat_frames(header: Dataset) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each frame of an enhanced file, as a classic file has them."""
    (shared,) = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        yield _flat(shared, frame)


def _flat(shared: Dataset, frame: Dataset) -> dict[str, Any]:
    """The attributes of one frame, see :func:`flat_frames`."""
    flat: dict[str, Any] = {}
    for group, names in _GROUPS.items():
        item = frame.get(group) or shared.get(group)
        for name, classic in names.items():
            if item and name in item[0]:
                flat[classic] = item[0].get(name)
    return flat


_GROUPS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
    },
    "FrameContentSequence": {
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": "TriggerTime"},
    "MRImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "SegmentIdentificationSequence": {"ReferencedSegmentNumber": "ReferencedSegmentNumber"},
}
"""Functional groups of enhanced files, and the attributes of classic files that mean the same."""


def _image(path: Path, header: Dataset, flat: Mapping[str, Any], piece: Piece) -> Image:
    """A slice, by its own attributes (``flat``) and those of the whole file."""

    def number(name: str, default: float = 0.0) -> float:
        value = flat.get(name, header.get(name))
        value = value[0] if isinstance(value, MultiValue) and value else value
        return default if value in (None, "") else float(value)

    directions = np.array(flat["ImageOrientationPatient"], float).reshape(2, 3)
    rows, columns = int(header.Rows), int(header.Columns)
    if piece.tiles is not None:
        rows, columns = rows // piece.tiles, columns // piece.tiles
    modality, series_number = str(header.Modality), header.get("SeriesNumber")
    between_rows, between_columns = (float(mm) for mm in flat["PixelSpacing"])
    white = None
    # Hounsfield units mean the same, whichever of them is drawn white
    if header.get("PhotometricInterpretation") == "MONOCHROME1" and modality != "CT":
        white = -1 if header.get("PixelRepresentation") else 2 ** int(header.BitsStored) - 1
    return Image(
        piece=Piece(
            piece.file,
            piece.index,
            piece.tiles,
            slope=number("RescaleSlope", 1.0),
            intercept=number("RescaleIntercept"),
            white=white,
            padding=_padding(header),
        ),
        instance=f"{header.get('SOPInstanceUID', path)}",
        series=f"{header.get('SeriesInstanceUID', path.parent)}",
        patient=_patient(header),
        space=str(header.get("FrameOfReferenceUID") or ""),
        number=None if series_number is None else int(series_number),
        modality=modality,
        colour=int(header.get("SamplesPerPixel") or 1) > 1
        or header.get("PhotometricInterpretation") == "PALETTE COLOR",
        kind=_texts(flat.get("ImageType", header.get("ImageType"))),
        size=(rows, columns),
        pixel_mm=(between_rows, between_columns),
        along_row=directions[0] / np.linalg.norm(directions[0]),
        along_column=directions[1] / np.linalg.norm(directions[1]),
        position=np.array(flat["ImagePositionPatient"], float),
        order=tuple(
            number(name)
            for name in (
                "EchoTime",
                "DiffusionBValue",
                "TemporalPositionIdentifier",
                "TriggerTime",
                "AcquisitionNumber",
            )
        ),
        image_number=number("InstanceNumber") + piece.index / 1e6,
    )


def _patient(header: Dataset) -> tuple[str, ...]:
    """What tells patients apart: the identifier; else name and date of birth; else the study."""
    identifier = str(header.get("PatientID") or "").strip()
    if identifier:
        return (str(header.get("IssuerOfPatientID") or ""), identifier)
    name = str(header.get("PatientName") or "").strip()
    if name:
        return ("", name, str(header.get("PatientBirthDate") or ""))
    return ("", "", "", str(header.get("StudyInstanceUID") or ""))


def _texts(value: Any) -> tuple[str, ...]:
    """The values of an attribute of several texts."""
    if value is None:
        return ()
    return (value.upper(),) if isinstance(value, str) else tuple(str(v).upper() for v in value)


def _padding(header: Dataset) -> tuple[int, int] | None:
    """The first and the last stored number of pixels outside the field of view, or None."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return None
    ends = [int(first), int(header.get("PixelPaddingRangeLimit", first))]
    if header.get("PixelRepresentation"):  # some write a negative number as an unsigned one
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return min(ends), max(ends)
