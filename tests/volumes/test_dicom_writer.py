"""DICOM-SEG out: the voxels and the place of every slice, and series to which none can belong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_examples import PLANTED, uid, write_image, write_series
from pydicom import dcmread

from poscon.errors import PosconError
from poscon.volumes.case import parse_labels
from poscon.volumes.formats.dicom.objects import drawing_of, read_drawing
from poscon.volumes.formats.dicom.writer import check_names, check_series, write_segments
from poscon.volumes.layouts import read_dataset
from poscon.volumes.series import Series

CLASSES = {7: "RV", 500: "MYO"}
SCHEME = parse_labels("7=RV,500=MYO")


def series_of(folder: Path, **how: Any) -> Series:
    series = read_dataset(folder, "dicom", **how).cases[0].image
    assert isinstance(series, Series)
    return series


def written(path: Path, series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Write random labels; and read them by pydicom and a loop over the frames of the file.

    Returns:
        What was written and what was read, (X, Y, Z).
    """
    labels = np.random.default_rng(0).choice([0, 7, 500], series.shape)
    labels[..., 0] = 0
    write_segments(path, labels, series, CLASSES, "ab" * 32)
    file = dcmread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    row, column = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, float
    ).reshape(2, 3)
    spacing = [float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing]
    affine = np.array(series.affine) * [[-1], [-1], [1], [1]]
    np.testing.assert_allclose(row * spacing[1], affine[:3, 0], atol=1e-4)
    np.testing.assert_allclose(column * spacing[0], affine[:3, 1], atol=1e-4)
    found = np.zeros_like(labels)
    for frame, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        places = affine[:3, 2:3] * np.arange(labels.shape[2]) + affine[:3, 3:]
        away = np.linalg.norm(places.T - place, axis=1)
        assert away.min() < 1e-3
        found[..., int(away.argmin())][pixels.T > 0] = list(CLASSES)[number - 1]
    return labels, found


@pytest.mark.parametrize("folder", ["ge/anatomical/001", "failing/gantrytilting/001"])
def test_an_oblique_and_a_tilted_series(shared_data: Path, folder: str, tmp_path: Path) -> None:
    series = series_of(shared_data / "dicom/short" / folder)
    labels, found = written(tmp_path / "seg.dcm", series)
    np.testing.assert_array_equal(found, labels)
    again = drawing_of(tmp_path / "seg.dcm", series.shape, np.array(series.affine))
    np.testing.assert_array_equal(read_drawing(again, SCHEME).data, labels)


@pytest.mark.parametrize(
    "folder",
    [
        "philips_enhanced/anatomical/001",
        "siemens_multiframe/anatomical/001",
        "hitachi/anatomical/001",
    ],
)
def test_enhanced_files(shared_data: Path, folder: str, tmp_path: Path) -> None:
    labels, found = written(tmp_path / "seg.dcm", series_of(shared_data / "dicom/short" / folder))
    np.testing.assert_array_equal(found, labels)


def test_a_series_with_few_attributes(tmp_path: Path) -> None:
    """Files without names of patients often lack these; the names may have any letters."""
    write_series(
        *(tmp_path / "scan", np.zeros((3, 5, 6), np.int16)),
        **{"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Käthe"},
        PatientSex="unknown",
        StudyDate="yesterday",
        ReferringPhysicianName=None,
        SeriesNumber=None,
    )
    series = series_of(tmp_path / "scan")
    path = tmp_path / "seg.dcm"
    labels, found = written(path, series)
    np.testing.assert_array_equal(found, labels)
    file = dcmread(path)
    assert str(file.PatientName) == "Müller^Käthe"
    assert file.SegmentsOverlap == "NO"
    first = file.FrameOfReferenceUID
    write_segments(path, labels, series, {7: "höher"}, "ab" * 32)
    again = dcmread(path)
    assert again.FrameOfReferenceUID == first
    assert again.SOPInstanceUID != file.SOPInstanceUID
    assert again.SegmentSequence[0].SegmentLabel == "höher"
    write_segments(path, 0 * labels, series, CLASSES, "ab" * 32)
    assert [item.SegmentLabel for item in dcmread(path).SegmentSequence] == ["RV", "MYO"]


def test_series_to_which_no_seg_can_belong(tmp_path: Path) -> None:
    volume = np.zeros((4, 5, 6), np.int16)
    images = write_series(tmp_path / "a", volume)
    write_series(tmp_path / "a/later", volume, name="later", SeriesInstanceUID=uid("series"))
    with pytest.raises(PosconError, match="has 2 frames, and a SEG is of one volume; leave --to"):
        check_series(series_of(tmp_path / "a"))
    images[1].unlink()
    gap = write_series(tmp_path / "gap", volume, numbers=[0, 1, 3, 4])
    with pytest.raises(PosconError, match="has interpolated slices"):
        check_series(series_of(tmp_path / "gap", on_gap="interpolate"))
    with pytest.raises(PosconError, match="1 missing between"):
        check_series(series_of(tmp_path / "gap"))
    assert gap
    write_series(tmp_path / "b", volume, StudyInstanceUID=None)
    with pytest.raises(PosconError, match="has no StudyInstanceUID, which a SEG needs") as caught:
        check_series(series_of(tmp_path / "b"))
    assert not any(planted in str(caught.value) for planted in PLANTED.values())


def test_headers_that_do_not_allow_a_seg(tmp_path: Path) -> None:
    volume = np.zeros((2, 5, 6), np.int16)
    images = write_series(tmp_path / "scan", volume)
    file = dcmread(images[1])
    file.StudyInstanceUID = uid("another study")
    file.save_as(images[1])
    series = series_of(tmp_path / "scan")
    labels = np.zeros(series.shape, np.uint8)
    with pytest.raises(PosconError, match="its headers do not allow a SEG") as caught:
        write_segments(tmp_path / "seg.dcm", labels, series, CLASSES, "ab" * 32)
    assert not any(planted in str(caught.value) for planted in PLANTED.values())
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("name", ["a" * 65, "left\\right"])
def test_classes_that_cannot_be_segments(name: str) -> None:
    check_names(["RV", "a" * 64])
    with pytest.raises(PosconError, match="cannot be a segment, whose label has at most 64"):
        check_names(["RV", name])


def test_a_mosaic(tmp_path: Path) -> None:
    header = b"sSliceArray.lSize = 4\nsSliceArray.asSlice[0].sPosition.dTra = 30\n"
    header += b"sSliceArray.asSlice[3].sPosition.dTra = 39\n"
    write_image(
        tmp_path / "mosaic.dcm",
        np.zeros((8, 8), np.int16),
        Modality="MR",
        ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"],
        ImagePositionPatient=[0.0, 0.0, 30.0],
        SpacingBetweenSlices=3.0,
        x00291020=header,
    )
    with pytest.raises(
        PosconError, match="is a mosaic, whose slices have no identifiers of their own"
    ):
        check_series(series_of(tmp_path))
