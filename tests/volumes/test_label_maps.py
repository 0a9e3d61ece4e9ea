"""Label maps in every form: scaled integers, masks per organ, Slicer's segments."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.volumes.case import label_scheme
from poscon.volumes.label_maps import (
    choose_scheme,
    looks_like_label_map,
    read_label_header,
    read_labels,
    segment_values,
)

SHAPE = (6, 5, 4)
ORGANS = label_scheme([("liver", [1]), ("spleen", [2])], where="here")


def regions() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 1:4, 1:3] = 1
    labels[4:, 1:4, 1:3] = 2
    return labels


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def put_masks(folder: Path, **masks: np.ndarray) -> Path:
    for organ, mask in masks.items():
        save(folder / f"{organ}.nii.gz", mask.astype(np.uint8))
    return folder


# What the values mean


@pytest.mark.parametrize(
    ("values", "noted"), [((0, 1, 255), True), ((0, 255), False), ((0, 1, 2), False)]
)
def test_a_value_that_often_means_not_labelled_is_noted_where_nothing_says_what_it_means(
    values: tuple[int, ...], noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.nii.gz", np.resize(np.array(values, np.uint8), SHAPE))
    scheme = choose_scheme(None, None, None, [(path, None)], where="labels")
    assert scheme.values == tuple(value for value in values if value)
    note = "note: labels: the value 255 is taken for a class; if it means 'not labelled', say"
    assert (note in capsys.readouterr().err) == noted
    choose_scheme(None, None, 255, [(path, None)], where="labels")
    assert "note" not in capsys.readouterr().err


# Integers with a scale


@pytest.mark.parametrize("stored", [np.uint8, np.int16, np.int32])
@given(values=st.lists(st.integers(0, 14), min_size=1, max_size=60))
def test_labels_that_nibabel_scaled_come_back(
    tmp_path_factory: pytest.TempPathFactory, stored: type, values: list[int]
) -> None:
    path = tmp_path_factory.mktemp("scaled") / "labels.nii"
    header = nib.Nifti1Header()
    header.set_data_dtype(stored)
    data = np.array(values, float).reshape(-1, 1, 1)
    nib.save(nib.Nifti1Image(data, np.eye(4), header), path)
    np.testing.assert_array_equal(read_labels(path).data, data)


@pytest.mark.parametrize("value", [0.99999999, 2.7, 1.001])
def test_floating_point_values_stay_as_they_are(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "labels.nii.gz", regions() * value)
    np.testing.assert_array_equal(read_labels(path).data, regions() * value)


def test_scaled_values_between_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    image = nib.Nifti1Image(regions(), np.eye(4))
    image.header.set_slope_inter(0.05, 0.013)
    nib.save(image, tmp_path / "labels.nii.gz")
    data = read_labels(tmp_path / "labels.nii.gz").data
    stored = np.asanyarray(nib.load(tmp_path / "labels.nii.gz").dataobj)
    np.testing.assert_allclose(data, stored, rtol=1e-6)
    assert (data != np.round(data)).any()


# One mask per organ


def test_masks_are_merged_by_name(tmp_path: Path) -> None:
    folder = put_masks(tmp_path / "segmentations", liver=regions() == 1, spleen=regions() == 2)
    np.testing.assert_array_equal(read_labels(folder, ORGANS).data, regions())
    assert read_label_header(folder).shape == SHAPE
    one = label_scheme([("spleen", [7])], where="here")
    np.testing.assert_array_equal(read_labels(folder, one).data, (regions() == 2) * 7)


def test_masks_of_255_are_masks(tmp_path: Path) -> None:
    folder = put_masks(tmp_path, liver=(regions() == 1) * 255, spleen=regions() == 2)
    np.testing.assert_array_equal(read_labels(folder, ORGANS).data, regions())


def test_an_organ_that_is_not_in_the_scan_has_an_empty_mask(tmp_path: Path) -> None:
    folder = put_masks(tmp_path, liver=regions() == 1, spleen=np.zeros(SHAPE))
    assert read_labels(folder, ORGANS).data.max() == 1


@pytest.mark.parametrize(
    ("spleen", "message"),
    [
        (regions() > 0, "masks 'spleen' and 'liver' overlap in 12 voxels"),
        (regions(), r"spleen\.nii\.gz: 3 values"),
        (np.ones((6, 5, 3)), r"spleen\.nii\.gz: does not lie where liver\.nii\.gz does"),
        (None, "no mask of 'spleen'"),
    ],
)
def test_masks_that_cannot_be_merged(
    tmp_path: Path, spleen: np.ndarray | None, message: str
) -> None:
    put_masks(tmp_path, liver=regions() == 1)
    if spleen is not None:
        put_masks(tmp_path, spleen=spleen)
    with pytest.raises(PosconError, match=message) as caught:
        read_labels(tmp_path, ORGANS)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_mask_with_voxels_that_are_no_number(odd: float, tmp_path: Path) -> None:
    put_masks(tmp_path, liver=regions() == 1)
    save(tmp_path / "spleen.nii.gz", np.where(regions() == 2, odd, 0).astype(np.float32))
    with pytest.raises(PosconError, match=r"spleen\.nii\.gz: has voxels that are no number"):
        read_labels(tmp_path, ORGANS)


def test_masks_that_lie_elsewhere(tmp_path: Path) -> None:
    put_masks(tmp_path, liver=regions() == 1)
    save(tmp_path / "spleen.nii.gz", (regions() == 2).astype(np.uint8), np.diag([1, 1, 2, 1]))
    with pytest.raises(PosconError, match="does not lie where"):
        read_labels(tmp_path, ORGANS)


def test_a_folder_without_masks(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="no mask in this folder"):
        read_label_header(tmp_path)


# 3D Slicer's segments


def put_segments(path: Path, data: np.ndarray, segments: list[tuple[str, str]]) -> Path:
    image = SimpleITK.GetImageFromArray(data.T)
    for number, (name, value) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", value)
    SimpleITK.WriteImage(image, str(path))
    return path


def test_segments_have_their_names_meaning_whatever_their_values(tmp_path: Path) -> None:
    swapped = np.array([0, 2, 1], np.uint8)[regions()]
    one = put_segments(tmp_path / "a.seg.nrrd", regions(), [("liver", "1"), ("spleen", "2")])
    two = put_segments(tmp_path / "b.seg.nrrd", swapped, [("spleen", "1"), ("liver", "2")])
    assert segment_values(two) == {"spleen": 1, "liver": 2}
    for path in (one, two):
        np.testing.assert_array_equal(read_labels(path, ORGANS).data, regions())


def test_segments_that_the_user_names_by_value(tmp_path: Path) -> None:
    path = put_segments(
        tmp_path / "a.seg.nrrd", regions(), [("Segment_1", "1"), ("Segment_2", "2")]
    )
    np.testing.assert_array_equal(read_labels(path, ORGANS).data, regions())


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("liver", "1"), ("tumour", "2")], "'tumour' is none of the classes"),
        ([("liver", "1"), ("liver", "2")], "two segments have the name 'liver'"),
        ([("liver", "1.5"), ("spleen", "2")], "'1.5' is no whole number"),
        ([("liver", "1")], "value 2 belongs to no segment"),
    ],
)
def test_segments_that_cannot_be_read(
    tmp_path: Path, segments: list[tuple[str, str]], message: str
) -> None:
    path = put_segments(tmp_path / "a.seg.nrrd", regions(), segments)
    with pytest.raises(PosconError, match=message) as caught:
        read_labels(path, ORGANS)
    assert str(path) in str(caught.value)


# What looks like a label map


@given(st.integers(0, 99), st.integers(1, 200))
def test_regions_of_equal_values_look_like_a_label_map(seed: int, values: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, values + 1, (4, 4, 4))
    labels = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)
    assert looks_like_label_map(labels.astype(np.int16))
    assert looks_like_label_map(np.stack([labels, labels], axis=-1).astype(float))
    assert not looks_like_label_map(labels + 0.5)


@pytest.mark.parametrize("folder", ["acdc/training", "msd", "chaos_t2", "nnUNet_raw"])
def test_real_scans_and_label_maps_are_told_apart(shared_data: Path, folder: str) -> None:
    files = sorted((shared_data / folder).rglob("*.nii.gz"))
    maps = [path for path in files if "label" in path.parent.name or "_gt" in path.name]
    images = [path for path in files if path not in maps]
    assert all(looks_like_label_map(read_labels(path).data) for path in maps[:3])
    assert not any(looks_like_label_map(read_labels(path).data) for path in images[:3])
