"""DICOM series: what forms a volume, in which order, where it lies, what its numbers mean."""

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_examples import AXIAL, CORONAL, PLANTED, sequence, uid, write_image, write_series

from poscon.errors import PosconError
from poscon.volumes.case import Dataset
from poscon.volumes.layouts import read_dataset
from poscon.volumes.scan import Scan, read_header, read_scan
from poscon.volumes.series import Series

SHAPE = (5, 4, 6)
"""Slices, rows, columns."""


def stored(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def series_of(folder: Path, **how: Any) -> list[Series]:
    cases = read_dataset(folder, "dicom", **how).cases
    found = dict.fromkeys(case.image for case in cases)
    return [one for one in found if isinstance(one, Series)]


def only(folder: Path, **how: Any) -> Scan:
    """The only scan of a folder."""
    (series,) = series_of(folder, **how)
    return read_scan(series)


def refusal(folder: Path, **how: Any) -> str:
    """Why the only series of a folder is refused."""
    (series,) = series_of(folder, **how)
    with pytest.raises(PosconError) as caught:
        read_header(series)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(planted in message for planted in PLANTED.values())
    return message


def kinds(dataset: Dataset) -> list[str]:
    """What was passed over, without names of files."""
    return [line.removeprefix("passed over: ").split(":")[0] for line in dataset.passed_over]


def test_a_series_is_ordered_by_position_and_lies_where_it_says(tmp_path: Path) -> None:
    volume = stored()
    write_series(tmp_path, volume)
    scan = only(tmp_path)
    np.testing.assert_array_equal(scan.data, volume.transpose(2, 1, 0))
    assert scan.data.dtype.kind == "i"
    # slow reference: the position of a pixel by PS3.3 C.7.6.2.1.1, LPS+ turned into RAS+
    for column, row, number in ((0, 0, 0), (5, 3, 4), (2, 1, 3)):
        lps = np.array([-10 + column * 1.25, -20 + row * 0.75, 30 + 2.5 * number])
        found = scan.affine @ [column, row, number, 1]
        np.testing.assert_allclose(found[:3], lps * [-1, -1, 1])


def test_the_slices_follow_the_normal_whatever_the_direction_of_the_scan(tmp_path: Path) -> None:
    volume = stored()
    write_series(tmp_path / "up", volume)
    write_series(tmp_path / "down", volume[::-1], origin=(-10, -20, 40), step=(0, 0, -2.5))
    up, down = only(tmp_path / "up"), only(tmp_path / "down")
    np.testing.assert_array_equal(up.data, down.data)
    np.testing.assert_allclose(up.affine, down.affine)


def test_an_oblique_series(tmp_path: Path) -> None:
    turn = np.radians(20)
    row, column = np.array([np.cos(turn), np.sin(turn), 0]), np.array([0, 0, -1.0])
    normal = np.cross(row, column)
    write_series(
        tmp_path,
        stored(),
        step=tuple(3 * normal),
        ImageOrientationPatient=[float(f"{v:.12f}") for v in (*row, *column)],
    )
    affine = only(tmp_path).affine * np.array([[-1], [-1], [1], [1]])
    np.testing.assert_allclose(affine[:3, 0], 1.25 * row, atol=1e-6)
    np.testing.assert_allclose(affine[:3, 1], 0.75 * column, atol=1e-6)
    np.testing.assert_allclose(affine[:3, 2], 3 * normal, atol=1e-6)


def test_a_gantry_tilt_is_kept_and_said_once(tmp_path: Path) -> None:
    step = (0.0, 5 * np.sin(np.radians(15)), 5 * np.cos(np.radians(15)))
    for name in ("one", "two"):
        write_series(tmp_path, stored(), name=name, step=[round(v, 9) for v in step])
    dataset = read_dataset(tmp_path)
    (note,) = dataset.notes
    assert note.startswith("2 scan(s) have a gantry tilt (case001 15.0 degrees, case002")
    scan = read_scan(dataset.cases[0].image)
    np.testing.assert_allclose(scan.affine[:3, 2], np.array(step) * [-1, -1, 1], atol=1e-6)


def test_a_folder_with_everything_in_it(tmp_path: Path) -> None:
    ct, mr, cor = stored(), stored((3, 4, 6), 1), stored((4, 5, 5), 2)
    write_series(tmp_path / "a", ct, name="ct")
    write_series(tmp_path / "b", mr, name="mr", Modality="MR", PatientID="OTHER")
    # a second orientation of the same series, in the same folder
    write_series(
        *(tmp_path / "a", cor),
        **{"name": "again", "step": (0, 3, 0), "ImageOrientationPatient": list(CORONAL)},
        SeriesInstanceUID=uid("ct"),
    )
    write_image(
        tmp_path / "a/scout", stored((4, 6)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    write_image(tmp_path / "a/alone", stored((4, 6)), ImagePositionPatient=[0, 0, 0])
    write_image(tmp_path / "a/pet.dcm", stored((4, 6)), Modality="PT")
    write_image(tmp_path / "a/photo.dcm", stored((4, 6)))  # has no position
    write_image(tmp_path / "report.dcm", stored((4, 6)), Rows=None, Modality="SR")
    shutil.copy(tmp_path / "b/mr-003.dcm", tmp_path / "copy.dcm")
    (tmp_path / "readme.txt").write_text("notes")

    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dicom"
    assert [case.id for case in dataset.cases] == ["case001", "case002", "case003"]
    assert [case.subject for case in dataset.cases] == ["patient001", "patient001", "patient002"]
    assert [case.modality for case in dataset.cases] == ["CT", "CT", "MR"]
    scans = [read_scan(case.image).data for case in dataset.cases]
    shapes = [scan.shape for scan in scans]
    assert sorted(shapes) == [(5, 5, 4), (6, 4, 3), (6, 4, 5)]
    np.testing.assert_array_equal(scans[2], mr.transpose(2, 1, 0))
    assert sorted(kinds(dataset)) == [
        "1 DICOM image(s) that are neither CT nor MR",
        "1 DICOM image(s) without a place in space",
        "1 DICOM object(s) without an image",
        "1 copies of files that are read",
        "1 file(s) of another kind (.txt)",
        "1 localiser(s)",
        "1 single image(s), which make no volume",
    ]


@pytest.mark.parametrize("how", ["slope", "each slice", "offset"])
def test_slope_and_intercept(tmp_path: Path, how: str) -> None:
    volume = stored()
    for number, pixels in enumerate(volume):
        slope = {"slope": 0.5, "each slice": 1.0 + number, "offset": 1}[how]
        write_image(
            tmp_path / f"{number}.dcm",
            pixels,
            ImagePositionPatient=[0, 0, number],
            RescaleSlope=slope,
            RescaleIntercept=-1024,
        )
        volume = volume.astype(float)
        volume[number] = volume[number] * slope - 1024
    scan = only(tmp_path)
    np.testing.assert_array_equal(scan.data, volume.transpose(2, 1, 0))
    assert scan.data.dtype.kind == ("i" if how == "offset" else "f")


def test_monochrome1_is_turned_in_mr_and_not_in_ct(tmp_path: Path) -> None:
    volume = stored().astype(np.uint16)
    of_type = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    write_series(tmp_path / "mr", volume, Modality="MR", **of_type)
    write_series(tmp_path / "ct", volume, Modality="CT", RescaleIntercept=-1000, **of_type)
    expected = volume.transpose(2, 1, 0).astype(int)
    np.testing.assert_array_equal(only(tmp_path / "mr").data, 4095 - expected)
    np.testing.assert_array_equal(only(tmp_path / "ct").data, expected - 1000)


def test_padding_becomes_air(tmp_path: Path) -> None:
    volume = stored()
    volume[:, 0] = -2000
    volume[:, 1] = -1990
    range_ = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1995}
    write_series(tmp_path / "ct", volume, RescaleIntercept=-24, **range_)
    write_series(tmp_path / "mr", volume, Modality="MR", **range_)
    ct, mr = only(tmp_path / "ct").data, only(tmp_path / "mr").data
    assert (ct[:, 0] == -1000).all()
    assert (ct[:, 1] == -2014).all()
    assert (mr[:, 0] == 0).all()
    assert (mr[:, 1] == -1990).all()
    slope = {"RescaleSlope": 2, "RescaleIntercept": -4096, "PixelPaddingValue": 0}
    volume[:, 0] = 0
    write_series(tmp_path / "scaled", volume, Modality="MR", **slope)
    assert (only(tmp_path / "scaled").data[:, 0] == -4096).all()


@pytest.mark.parametrize("tag", ["EchoTime", "TemporalPositionIdentifier", "InstanceNumber"])
def test_time_points_and_echoes_are_frames(tmp_path: Path, tag: str) -> None:
    frames = stored((3, *SHAPE))
    for number, volume in enumerate(frames):
        for place, pixels in enumerate(volume):
            # within a frame the slices were acquired in another order than they lie
            numbers = {"InstanceNumber": 1 + number * 5 + (place * 3) % 5, tag: number + 1}
            if tag == "InstanceNumber":
                numbers[tag] = 1 + number * 5 + (place * 3) % 5
            write_image(
                tmp_path / f"{(place * 3 + number) * 7 % 17}.dcm",
                pixels,
                Modality="MR",
                ImagePositionPatient=[0, 0, 2 * place],
                **numbers,
            )
    dataset = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == [f"case001_frame0{n}" for n in (1, 2, 3)]
    assert {case.subject for case in dataset.cases} == {"patient001"}
    scan = read_scan(dataset.cases[0].image)
    np.testing.assert_array_equal(scan.data, frames.transpose(3, 2, 1, 0))


def test_magnitude_and_phase_are_volumes_of_their_own(tmp_path: Path) -> None:
    for kind, seed in (("M", 1), ("P", 2)):
        write_series(
            tmp_path / kind,
            stored(seed=seed),
            Modality="MR",
            ImageType=["ORIGINAL", "PRIMARY", kind],
        )
    one, two = (read_scan(series).data for series in series_of(tmp_path))
    np.testing.assert_array_equal(one, stored(seed=1).transpose(2, 1, 0))
    np.testing.assert_array_equal(two, stored(seed=2).transpose(2, 1, 0))


def test_an_enhanced_file_of_several_frames(tmp_path: Path) -> None:
    frames = stored((2, *SHAPE))
    groups = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, 3 * place]),
            FrameContentSequence=sequence(TemporalPositionIndex=time + 1),
            PixelValueTransformationSequence=sequence(RescaleSlope=2, RescaleIntercept=time),
        )[0]
        for place in reversed(range(5))
        for time in range(2)
    ]
    write_image(
        tmp_path / "enhanced",
        frames[:, ::-1].transpose(1, 0, 2, 3).reshape(-1, 4, 6),
        Modality="MR",
        PixelSpacing=None,
        ImageOrientationPatient=None,
        PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=sequence(
            PlaneOrientationSequence=sequence(ImageOrientationPatient=list(AXIAL)),
            PixelMeasuresSequence=sequence(PixelSpacing=[0.75, 1.25]),
        ),
    )
    scan = only(tmp_path)
    expected = frames.transpose(3, 2, 1, 0) * 2.0 + [0, 1]
    np.testing.assert_array_equal(scan.data, expected)
    np.testing.assert_allclose(scan.spacing, (1.25, 0.75, 3))


GAPS = [0, 1, 2, 5, 6, 7, 8]


def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path) -> None:
    write_series(tmp_path, stored((7, 4, 6)), numbers=GAPS)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}/series-")
    assert "(series 4, 7 file(s)): slices 3 and 4 of 7 are 7.5 mm apart, others 2.5 mm" in message
    assert "2 missing between series-077.dcm and series-013.dcm" in message
    assert "--on-gap interpolate or split" in message


def test_missing_slices_are_interpolated(tmp_path: Path) -> None:
    volume = stored((7, 4, 6)).astype(float)
    write_series(tmp_path, stored((7, 4, 6)), numbers=GAPS)
    dataset = read_dataset(tmp_path, on_gap="interpolate")
    assert dataset.notes == ("1 scan(s) have interpolated slices (case001).",)
    scan = read_scan(dataset.cases[0].image)
    third = (volume[3] - volume[2]) / 3
    expected = np.stack([*volume[:3], volume[2] + third, volume[3] - third, *volume[3:]])
    np.testing.assert_allclose(scan.data, expected.transpose(2, 1, 0), rtol=1e-6)
    np.testing.assert_allclose(scan.spacing, (1.25, 0.75, 2.5))


def test_a_series_is_split_at_its_gap(tmp_path: Path) -> None:
    volume = stored((7, 4, 6))
    write_series(tmp_path, volume, numbers=GAPS)
    one, two = (read_scan(series) for series in series_of(tmp_path, on_gap="split"))
    np.testing.assert_array_equal(one.data, volume[:3].transpose(2, 1, 0))
    np.testing.assert_array_equal(two.data, volume[3:].transpose(2, 1, 0))
    assert two.affine[2, 3] == 30 + 5 * 2.5


@pytest.mark.parametrize("on_gap", ["refuse", "interpolate", "split"])
def test_a_doubled_slice_is_refused(tmp_path: Path, on_gap: str) -> None:
    write_series(tmp_path, stored((6, 4, 6)), numbers=[0, 1, 2, 3, 3, 4])
    message = refusal(tmp_path, on_gap=on_gap)
    assert "2 images at the place of slice 4 of 5, 1 at the others (series-013.dcm and " in message


def test_a_time_point_that_is_not_whole(tmp_path: Path) -> None:
    write_series(tmp_path, stored((5, 4, 6)))
    write_series(tmp_path / "2", stored((4, 4, 6)), AcquisitionNumber=2)
    assert "1 images at the place of slice 5 of 5, 2 at the others" in refusal(tmp_path)


def test_slices_that_do_not_follow_a_line(tmp_path: Path) -> None:
    files = write_series(tmp_path, stored())
    write_image(
        files[2],
        stored((4, 6)),
        SeriesInstanceUID=uid("series"),
        ImagePositionPatient=[-8, -20, 35],
    )
    assert f"slice 3 of 5 lies 2 mm beside the line of the others ({files[2].name})" in refusal(
        tmp_path
    )


def test_colour_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        write_image(
            tmp_path / f"{number}.dcm",
            stored((4, 6)),
            ImagePositionPatient=[0, 0, number],
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
        )
    assert "colour images" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 1700])
def test_a_damaged_file(tmp_path: Path, kept: int) -> None:
    file = write_series(tmp_path, stored((5, 30, 30)))[2]
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(PosconError, match="etch it") as caught:
        only(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")
    assert not any(planted in str(caught.value) for planted in PLANTED.values())


def test_nothing_but_single_images(tmp_path: Path) -> None:
    write_image(tmp_path / "1.dcm", stored((4, 6)), ImagePositionPatient=[0, 0, 0])
    with pytest.raises(PosconError, match="no DICOM series that makes a volume, but 1 sing"):
        read_dataset(tmp_path)


def test_one_file_of_a_series_is_no_scan(tmp_path: Path) -> None:
    (file, *_) = write_series(tmp_path, stored())
    with pytest.raises(PosconError, match="one file of a DICOM series; give the folder"):
        read_scan(file)


def test_cases_are_named_as_asked(tmp_path: Path) -> None:
    write_series(tmp_path, stored(), name="one")
    write_series(tmp_path, stored(), name="two")
    write_series(tmp_path, stored(), name="three", PatientID="A/B 7")
    dataset = read_dataset(tmp_path, case_name="PatientID")
    found = [(case.id, case.subject) for case in dataset.cases]
    assert found == [
        ("A_B_7", "patient002"),
        ("PLANTED-ID-4711_1", "patient001"),
        ("PLANTED-ID-4711_2", "patient001"),
    ]
    with pytest.raises(PosconError, match="--case-name Patient: DICOM has no attribute"):
        read_dataset(tmp_path, case_name="Patient")
    with pytest.raises(PosconError, match="has no PatientSex, by which"):
        read_dataset(tmp_path, case_name="PatientSex")


def three_series(folder: Path) -> None:
    write_series(folder, stored(seed=0), name="a", SeriesDescription="T1 tra")
    write_series(folder, stored(seed=1), name="b", SeriesDescription="T2_TSE tra")
    write_series(folder, stored(seed=2), name="c", SeriesDescription="HASTE cor")


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("SeriesDescription=*t2*", [1]),
        ("SeriesDescription=*t2*|haste*", [1, 2]),
        ("SeriesDescription=t?_*", [1]),
        ("Modality=ct", [0, 1, 2]),
        ("ImageType=original*", [0, 1, 2]),
        ("PatientSex=|x", [0, 1, 2]),
    ],
)
def test_series_are_chosen_by_an_attribute(
    condition: str, found: list[int], tmp_path: Path
) -> None:
    """The numbers of the cases are those that all series have."""
    three_series(tmp_path)
    every = read_dataset(tmp_path).cases
    dataset = read_dataset(tmp_path, series=condition)
    assert [(case.id, case.subject) for case in dataset.cases] == [
        (every[number].id, every[number].subject) for number in found
    ]
    for case in dataset.cases:
        number = int(case.id.removeprefix("case")) - 1
        expected = stored(seed=number).transpose(2, 1, 0)
        np.testing.assert_array_equal(read_scan(case.image).data, expected)
    left = (3 - len(found)) * SHAPE[0]
    told = [f"{left} file(s) of series that --series does not choose"] if left else []
    assert kinds(dataset) == told


def test_what_is_not_chosen_stops_nothing(tmp_path: Path) -> None:
    """Not a gap in its slices, and not the label map of a time series."""
    write_series(tmp_path / "t2", stored(), name="t2", SeriesDescription="T2")
    gap = [0, 1, 3, 4, 5]
    write_series(tmp_path / "gap", stored(), name="gap", numbers=gap, SeriesDescription="DWI")
    for time in (1, 2):
        tags = {"AcquisitionNumber": time, "SeriesDescription": "dynamic"}
        write_series(tmp_path / f"dynamic/{time}", stored(seed=time), name="dynamic", **tags)
    image = nib.Nifti1Image(np.ones(stored().T.shape, np.uint8), np.eye(4))
    for name in ("t2", "dynamic/1", "dynamic/2"):
        nib.save(image, tmp_path / f"{name}_seg.nii.gz")
    with pytest.raises(PosconError, match=r"two files for the label map of .*/dynamic/1"):
        read_dataset(tmp_path)
    dataset = read_dataset(tmp_path, series="SeriesDescription=T2")
    assert "15 file(s) of series that --series does not choose" in kinds(dataset)
    (case,) = dataset.cases
    assert case.label == tmp_path / "t2_seg.nii.gz"
    assert read_header(case.image).shape == (6, 4, 5)


def test_a_label_map_beside_several_series_is_refused_whatever_is_chosen(tmp_path: Path) -> None:
    three_series(tmp_path / "scan")
    image = nib.Nifti1Image(np.ones(stored().T.shape, np.uint8), np.eye(4))
    nib.save(image, tmp_path / "scan_seg.nii.gz")
    for series in (None, "SeriesDescription=*t2*"):
        with pytest.raises(PosconError, match="may be the label map of any of the 3 series"):
            read_dataset(tmp_path, series=series)


def test_brackets_are_brackets(tmp_path: Path) -> None:
    write_series(tmp_path, stored(seed=0), name="a", SeriesDescription="t2 [fs] tra")
    write_series(tmp_path, stored(seed=1), name="b", SeriesDescription="t2 f tra")
    for pattern, found in (("t2 [fs]*", ["case001"]), ("t2 ?*", ["case001", "case002"])):
        dataset = read_dataset(tmp_path, series=f"SeriesDescription={pattern}")
        assert [case.id for case in dataset.cases] == found


def test_an_attribute_that_only_some_images_of_a_series_have_chooses_nothing(
    tmp_path: Path,
) -> None:
    for echo in (20.0, 80.0):
        write_series(tmp_path / str(echo), stored(seed=int(echo)), EchoTime=echo)
    with pytest.raises(PosconError, match=r"--series EchoTime=80.0: fits a part of .* only; choos"):
        read_dataset(tmp_path, series="EchoTime=80.0")
    assert len(read_dataset(tmp_path, series="EchoTime=20.0|80.0").cases) == 2
    with pytest.raises(PosconError, match=r"\(EchoTime is '20.0' in 1 series\)"):
        read_dataset(tmp_path, series="EchoTime=20")


def test_an_image_that_lacks_its_pixel_spacing_has_no_place(tmp_path: Path) -> None:
    write_series(tmp_path / "whole", stored())
    for file in write_series(tmp_path / "derived", stored(seed=1), name="derived"):
        image = pydicom.dcmread(file)
        del image.PixelSpacing
        image.save_as(file)
    dataset = read_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["case001"]
    assert kinds(dataset) == ["5 DICOM image(s) without a place in space"]


def test_what_is_done_at_gaps_changes_no_number(tmp_path: Path) -> None:
    write_series(tmp_path / "a", stored((7, 4, 6)), name="a", numbers=GAPS)
    write_series(tmp_path / "b", stored(), name="b")
    found = {
        on_gap: [case.id for case in read_dataset(tmp_path, on_gap=on_gap).cases]
        for on_gap in ("refuse", "interpolate", "split")
    }
    assert found == {
        "refuse": ["case001", "case002"],
        "interpolate": ["case001", "case002"],
        "split": ["case001_1", "case001_2", "case002"],
    }


def test_a_choice_that_cannot_be_meant(tmp_path: Path) -> None:
    three_series(tmp_path)
    for condition, words in (
        ("SeriesDescription", "must be KEYWORD=PATTERN, such as"),
        ("SeriesDescription=", "must be KEYWORD=PATTERN"),
        ("=*t2*", "must be KEYWORD=PATTERN"),
        ("Description=*t2*", "--series Description: DICOM has no attribute of this name"),
        (
            "SeriesDescription=*dwi*",
            r"none of the 3 series of .* fits; change the pattern \(SeriesDescription is 'T1 tra' "
            r"in 1 series, 'T2_TSE tra' in 1 series, 'HASTE cor' in 1 series\)",
        ),
        ("ProtocolName=*t2*", r"\(ProtocolName is none in 3 series\)"),
        ("PatientName=nobody", "values of PatientName may say who was scanned, and are not"),
    ):
        with pytest.raises(PosconError, match=words) as caught:
            read_dataset(tmp_path, series=condition)
        assert not any(planted in str(caught.value) for planted in PLANTED.values())


def test_options_that_have_no_effect(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(PosconError, match="--on-gap: has no effect on the layout 'msd'"):
        read_dataset(scans, on_gap="split")
    write_series(tmp_path, stored())
    with pytest.raises(PosconError, match="--on-gap often: must be refuse, interpolate, split"):
        read_dataset(tmp_path, on_gap="often")
