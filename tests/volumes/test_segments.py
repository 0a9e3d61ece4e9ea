"""DICOM-SEG as label maps: which series they belong to, where they lie, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_examples import (
    CORONAL,
    PLANTED,
    sequence,
    uid,
    write_image,
    write_rtstruct,
    write_seg,
    write_series,
)
from pydicom import dcmread

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset, parse_labels
from poscon.volumes.drawing import Drawing
from poscon.volumes.formats.dicom.objects import drawing_of
from poscon.volumes.label_maps import read_label_header, read_labels
from poscon.volumes.layouts import read_dataset
from poscon.volumes.scan import read_header

SHAPE = (4, 5, 6)
"""Slices, rows, columns."""
SCHEME = parse_labels("1=RV,2=MYO")


def drawn(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def pixels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 900, shape).astype(np.int16)


def series(folder: Path, **how: Any) -> list[Path]:
    """A series whose coordinate system has a name."""
    return write_series(folder, pixels(), **{"FrameOfReferenceUID": uid("space"), **how})


def only(dataset: Dataset) -> Case:
    (case,) = dataset.cases
    return case


def values(folder: Path) -> np.ndarray:
    """The label map of the only case of a folder, as (slices, rows, columns)."""
    dataset = read_dataset(folder, "dicom")
    assert dataset.labels is not None
    case = only(dataset)
    assert case.label is not None
    labels = read_labels(case.label, dataset.labels)
    np.testing.assert_array_equal(labels.affine, read_header(case.image).affine)
    return labels.data.transpose(2, 1, 0)


def refusal(folder: Path) -> str:
    """Why the label map of the first case is refused."""
    dataset = read_dataset(folder, "dicom")
    label = dataset.cases[0].label
    assert isinstance(label, Drawing)
    with pytest.raises(PosconError) as caught:
        read_labels(label, dataset.labels)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(planted in message for planted in PLANTED.values())
    return message


def test_segments_have_their_values_by_their_labels(tmp_path: Path) -> None:
    labels = drawn()
    labels[1] = 0  # a slice without a frame is background
    images = series(tmp_path / "scan")
    write_seg(tmp_path / "anywhere.dcm", images, labels, ["RV", "MYO"])
    np.testing.assert_array_equal(values(tmp_path), labels)
    dataset = read_dataset(tmp_path)
    assert dataset.passed_over == ()
    assert dataset.notes == ()
    assert dataset.labels == SCHEME
    label = only(dataset).label
    assert label is not None
    turned = read_labels(label, parse_labels("5=MYO")).data  # the other segment is left out
    np.testing.assert_array_equal(turned.transpose(2, 1, 0), (labels == 2) * 5)


def test_pictures_of_label_numbers(tmp_path: Path) -> None:
    labels = drawn()
    images = series(tmp_path / "scan")
    write_seg(tmp_path / "seg.dcm", images, labels, ["RV", "MYO"], "LABELMAP")
    np.testing.assert_array_equal(values(tmp_path), labels)


def test_fractions_count_from_one_half_on(tmp_path: Path) -> None:
    shares = np.zeros((*SHAPE, 2))
    shares[0, 0, :, 0] = [0.0, 0.3, 0.49, 0.5, 0.52, 1.0]
    shares[0, 0, :, 1] = [1.0, 0.7, 0.51, 0.5, 0.48, 0.0]
    images = series(tmp_path / "scan")
    write_seg(
        *(tmp_path / "seg.dcm", images, shares, ["RV", "MYO"], "FRACTIONAL"),
        max_fractional_value=100,
    )
    assert values(tmp_path)[0, 0].tolist() == [2, 2, 2, 0, 1, 1]
    (note,) = read_dataset(tmp_path).notes
    assert note.startswith("1 label map(s) have fractions (case001): a voxel belongs to a segment")


def test_an_oblique_tilted_and_turned_series(tmp_path: Path) -> None:
    turn = np.radians(20)
    row, column = np.array([np.cos(turn), np.sin(turn), 0]), np.array([0, 0, -1.0])
    step = 3 * np.cross(row, column) + 0.7 * column
    labels = drawn()
    images = series(
        tmp_path / "scan",
        step=tuple(step),
        ImageOrientationPatient=[float(f"{v:.12f}") for v in (*row, *column)],
    )
    write_seg(tmp_path / "seg.dcm", images, labels, ["RV", "MYO"])
    np.testing.assert_array_equal(values(tmp_path), labels)


def test_frames_with_other_axes_and_a_smaller_picture(tmp_path: Path) -> None:
    """Frames are put where they say, whatever the order of their rows and columns."""
    labels = drawn()
    path = write_seg(tmp_path / "seg.dcm", series(tmp_path / "scan"), labels, ["RV", "MYO"])
    file = dcmread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    # the columns of the picture run against those of the series, and the first column is cut off
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    for frame in file.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x + 5 * 1.25, y, z]
    turned = np.pad(file.pixel_array[:, :, 1:][:, :, ::-1], ((0, 0), (0, 0), (0, 3)))
    file.Columns = 8  # pictures of whole bytes
    file.PixelData = np.packbits(turned.ravel(), bitorder="little").tobytes()
    file.save_as(path)
    expected = labels.copy()
    expected[:, :, 0] = 0
    np.testing.assert_array_equal(values(tmp_path), expected)


def test_several_objects_of_a_series_and_a_copy(tmp_path: Path) -> None:
    labels = drawn()
    images = series(tmp_path / "scan")
    first = write_seg(tmp_path / "a.dcm", images, np.uint8(labels == 1), ["RV"])
    write_seg(tmp_path / "b.dcm", images, np.uint8(labels == 2), ["MYO"])
    shutil.copy(first, tmp_path / "c.dcm")
    np.testing.assert_array_equal(values(tmp_path), labels)
    (line,) = read_dataset(tmp_path).passed_over
    assert line == "passed over: 1 copies of files that are read: c.dcm"


def test_overlapping_segments_are_refused(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    both = np.ones((*SHAPE, 2), np.uint8)
    path = write_seg(tmp_path / "seg.dcm", images, both, ["RV", "MYO"])
    assert refusal(tmp_path) == (
        f"{path}: the segments 'RV' and 'MYO' overlap in 30 voxels or more; choose one of them "
        "with --labels, or correct them"
    )
    label = only(read_dataset(tmp_path)).label
    assert label is not None
    assert read_labels(label, parse_labels("1=RV")).data.all()


def test_the_same_segment_in_two_objects_is_refused(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    for name, seed in (("a", 1), ("b", 2)):
        write_seg(tmp_path / f"{name}.dcm", images, drawn(seed=seed), ["RV", "MYO"])
    assert refusal(tmp_path) == (
        f"{tmp_path}/a.dcm and {tmp_path}/b.dcm: the segment 'RV' is in each of them; poscon "
        "cannot know which is right: move one away"
    )


def test_a_segment_that_one_of_two_label_maps_has(tmp_path: Path) -> None:
    for name, segments in (("a", ["RV", "MYO"]), ("b", ["RV"])):
        labels = np.minimum(drawn(), len(segments)).astype(np.uint8)
        write_seg(tmp_path / f"{name}.dcm", series(tmp_path / name, name=name), labels, segments)
    dataset = read_dataset(tmp_path)
    assert dataset.labels == SCHEME
    assert dataset.notes == (
        "1 of 2 label map(s) have no segment 'MYO' (case002): there it counts as background.",
    )


def test_an_object_belongs_to_the_series_that_it_names(tmp_path: Path) -> None:
    """Not to the one beside it, nor to one in the same coordinate system."""
    series(tmp_path / "a", name="a")
    images = series(tmp_path / "b", name="b")
    path = write_seg(tmp_path / "a/seg.dcm", images, drawn(), ["RV", "MYO"])
    one, two = read_dataset(tmp_path).cases
    assert one.label is None
    assert isinstance(two.label, Drawing)

    shutil.rmtree(tmp_path / "b")
    dataset = read_dataset(tmp_path)
    assert only(dataset).label is None
    (line,) = dataset.passed_over
    assert line == ("passed over: 1 SEG or RTSTRUCT object(s) of no series that is read: a/seg.dcm")

    file = dcmread(path)  # it names no image: then the coordinate system decides
    del file.ReferencedSeriesSequence
    for frame in file.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    file.save_as(path)
    assert isinstance(only(read_dataset(tmp_path)).label, Drawing)


def test_an_object_of_a_series_that_is_not_chosen_is_not_that_of_another(tmp_path: Path) -> None:
    """It names the coordinate system only, and lies on the grid of one of its series."""
    series(tmp_path / "a", name="a", step=(0, 0, 3.5), SeriesDescription="t2")
    images = series(tmp_path / "b", name="b", SeriesDescription="t1")
    path = write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    file = dcmread(path)
    del file.ReferencedSeriesSequence
    for frame in file.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    file.save_as(path)
    for series_, names in (("t2", []), ("t1", ["RV", "MYO"])):
        dataset = read_dataset(tmp_path, series=f"SeriesDescription={series_}")
        assert isinstance(only(dataset).label, Drawing) == bool(names)
        assert list(dataset.labels.names if dataset.labels else []) == names


def test_an_object_of_one_of_two_orientations(tmp_path: Path) -> None:
    labels = drawn((4, 5, 5))
    images = write_series(tmp_path, pixels((4, 5, 5)), name="s", step=(0, 0, 2))
    more = {"step": (0, 3, 0), "ImageOrientationPatient": list(CORONAL)}
    write_series(tmp_path / "t", pixels((4, 5, 5)), name="t", SeriesInstanceUID=uid("s"), **more)
    path = write_seg(tmp_path / "seg.dcm", images, labels, ["RV", "MYO"])
    file = dcmread(path)
    del file.ReferencedSeriesSequence[0].ReferencedInstanceSequence  # it names the series only
    file.save_as(path)
    found = [isinstance(case.label, Drawing) for case in read_dataset(tmp_path).cases]
    assert found == [True, False]


@pytest.mark.parametrize(
    ("shift", "spacing", "words"),
    [
        ([0.3, 0, 0], None, "frame 1: up to 0.3 mm beside them); draw on the series itself"),
        ([0, 0, 1], None, "frame 1: up to 1 mm beside them)"),
        ([0, 0, 0], [0.75, 0.6], "frame 1: of another size or direction)"),
        ([0, 0, 2.5 * 4], None, "frame 1 lie outside the series; is the series complete?"),
    ],
)
def test_a_label_map_that_does_not_lie_on_its_series(
    tmp_path: Path, shift: list[float], spacing: list[float] | None, words: str
) -> None:
    images = series(tmp_path / "scan")
    path = write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    file = dcmread(path)
    for frame in file.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        moved = np.array(place.ImagePositionPatient, float) + shift
        place.ImagePositionPatient = [float(f"{v:.6f}") for v in moved]
    if spacing is not None:
        file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = spacing
    file.save_as(path)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_time_series_and_interpolated_slices(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    write_series(tmp_path / "later", pixels(), name="later", SeriesInstanceUID=uid("series"))
    write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}/seg.dcm: structures of a series with 2 frames")

    shutil.rmtree(tmp_path / "later")
    images[1].unlink()
    series_of = read_dataset(tmp_path, on_gap="interpolate")
    label = only(series_of).label
    assert label is not None
    with pytest.raises(PosconError, match="interpolated slices, on which nobody has drawn"):
        read_label_header(label)


def test_other_label_maps_beside_a_seg(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    path = write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    label = only(read_dataset(tmp_path)).label
    assert label is not None
    with pytest.raises(PosconError, match="name the classes with --labels"):
        read_labels(label)
    with pytest.raises(PosconError, match=r"no segment of it \(RV, MYO\) is one of the classes"):
        read_labels(label, parse_labels("1=kidney"))
    write_seg(tmp_path / "two.dcm", images, np.ones(SHAPE, np.uint8), ["LV"])
    shutil.move(path, tmp_path / "seg.txt")  # the name does not matter
    assert only(read_dataset(tmp_path)).label is not None


def test_a_damaged_object_and_one_of_another_kind(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    path = write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    file = dcmread(path)
    file.PixelData = file.PixelData[:5]
    file.save_as(path)
    assert refusal(tmp_path).startswith(f"{path}: cannot be read as SEG or RTSTRUCT (ValueError)")
    del file.SegmentSequence
    file.save_as(path)
    label = only(read_dataset(tmp_path)).label
    assert label is not None
    with pytest.raises(PosconError, match="a SEG without a segment; move it away"):
        read_label_header(label)

    other = write_image(tmp_path / "image.dcm", pixels((5, 6)))
    with pytest.raises(PosconError, match="neither a SEG nor an RTSTRUCT"):
        drawing_of(other, (6, 5, 4), np.eye(4))
    other.write_text("nothing")
    with pytest.raises(PosconError, match="named like a DICOM file, but it is none"):
        drawing_of(other, (6, 5, 4), np.eye(4))


def square(first: float, last: float, height: float) -> np.ndarray:
    """A contour in mm around the pixels of a series: columns and rows from first to last."""
    a, b = first - 0.5, last + 0.5
    corners = np.array([[a, a], [b, a], [b, b], [a, b]])
    return np.column_stack([-10 + corners[:, 0] * 1.25, -20 + corners[:, 1] * 0.75, [height] * 4])


def test_contours_of_regions(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    regions = {
        "RV": [square(1, 3, 30.0), square(2, 2, 30.1), square(0, 0, 37.5)],  # one has a hole
        "MYO": [square(2, 2, 30.0), square(3, 9, 35.0)],  # one goes beyond the picture
        "empty": [],
    }
    write_rtstruct(tmp_path / "rt.dcm", images, regions)
    expected = np.zeros(SHAPE, np.uint8)
    expected[0, 1:4, 1:4] = 1
    expected[0, 2, 2] = 2
    expected[3, 0, 0] = 1
    expected[2, 3:, 3:] = 2
    np.testing.assert_array_equal(values(tmp_path), expected)
    assert read_dataset(tmp_path).labels == SCHEME


@pytest.mark.parametrize(
    ("height", "kind", "words"),
    [
        (31.0, "CLOSED_PLANAR", "lies in no slice of the series, up to 0.4 of the distance"),
        (40.0, "CLOSED_PLANAR", "lies outside the 4 slices of the series, where number 5"),
        (30.0, "OPEN_PLANAR", "is of the type OPEN_PLANAR, poscon reads CLOSED_PLANAR; choose"),
    ],
)
def test_contours_that_cannot_be_used(tmp_path: Path, height: float, kind: str, words: str) -> None:
    images = series(tmp_path / "scan")
    path = write_rtstruct(tmp_path / "rt.dcm", images, {"RV": [square(1, 2, height)]}, kind=kind)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: a contour of 'RV' ")
    assert words in message


def test_regions_without_contours(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "rt.dcm", series(tmp_path / "scan"), {"RV": []})
    label = only(read_dataset(tmp_path)).label
    assert label is not None
    with pytest.raises(PosconError, match="an RTSTRUCT without a contour; move it away"):
        read_label_header(label)
    assert path.is_file()


def test_a_seg_that_does_not_say_where_it_lies(tmp_path: Path) -> None:
    images = series(tmp_path / "scan")
    path = write_seg(tmp_path / "seg.dcm", images, drawn(), ["RV", "MYO"])
    file = dcmread(path)
    for frame in file.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    file.save_as(path)
    assert "frame 1 does not say its ImagePositionPatient" in refusal(tmp_path)
    file.SegmentSequence = sequence(SegmentNumber=9, SegmentLabel="RV")
    del file.PerFrameFunctionalGroupsSequence
    file.save_as(path)
    assert "a SEG that does not say where its frames lie" in refusal(tmp_path)
