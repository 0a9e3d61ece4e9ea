"""nnU-Net's raw data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_examples import describe, ids, labelled, put, put_nnunet

from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset


def test_nnunet_files_elsewhere_are_not_left_out_in_silence(tmp_path: Path) -> None:
    put_nnunet(tmp_path, dataset={"heart_1": {"images": ["/x/a.nii.gz"], "label": "/x/b.nii.gz"}})
    with pytest.raises(PosconError, match="lists its files under 'dataset'"):
        read_dataset(tmp_path)


def test_nnunet(tmp_path: Path) -> None:
    put_nnunet(tmp_path, channel_names={"0": "CT"})
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["heart_1", "heart_2", "heart_3"]
    assert labelled(dataset) == ["heart_1", "heart_2"]
    assert {case.modality for case in dataset.cases} == {"CT"}
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("RV", "LV"), (1, 3))


@pytest.mark.parametrize(("channel", "modality"), [("MRI", "MR"), ("noNorm", None)])
def test_nnunet_modality(tmp_path: Path, channel: str, modality: str | None) -> None:
    put_nnunet(tmp_path, channel_names={"0": channel})
    assert {case.modality for case in read_dataset(tmp_path).cases} == {modality}


def test_nnunet_version_1(tmp_path: Path) -> None:
    put_nnunet(tmp_path)
    labels = {"0": "background", "1": "RV", "3": "LV"}
    describe(tmp_path, modality={"0": "MRI"}, labels=labels)
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, len(dataset.cases)) == ("nnunet", 3)
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("RV", "LV"), (1, 3))


def test_nnunet_channels(tmp_path: Path) -> None:
    put_nnunet(tmp_path, channels=2)
    dataset = read_dataset(tmp_path, channel=1)
    assert ids(dataset) == ["heart_1", "heart_2", "heart_3"]
    assert all(case.image.name.endswith("_0001.nii.gz") for case in dataset.cases)
    assert dataset.channels == ("channel 1",)
    whole = read_dataset(tmp_path)
    assert labelled(whole) == labelled(dataset)
    assert whole.channels == ("channel 0", "channel 1")
    for case, one in zip(whole.cases, dataset.cases, strict=True):
        assert [file.name for file in case.image_files] == [
            f"{case.id}_0000.nii.gz",
            f"{case.id}_0001.nii.gz",
        ]
        assert one.all_channels == case.all_channels[1:]
    with pytest.raises(PosconError, match="no channel -1"):
        read_dataset(tmp_path, channel=-1)


def test_nnunet_modality_of_each_channel(tmp_path: Path) -> None:
    put_nnunet(tmp_path, channels=3, channel_names={"0": "MRI", "1": "CT", "2": "PET"})
    for case in read_dataset(tmp_path).cases:
        assert [channel.modality for channel in case.all_channels] == ["MR", "CT", None]


def test_nnunet_case_without_one_of_its_channels(tmp_path: Path) -> None:
    put_nnunet(tmp_path, channels=2)
    (tmp_path / "imagesTr" / "heart_2_0001.nii.gz").unlink()
    with pytest.raises(PosconError, match=r"heart_2_0001\.nii\.gz: no such file, .* --channel"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, channel=0).cases) == 3


def test_nnunet_other_file_ending(tmp_path: Path) -> None:
    put_nnunet(tmp_path, file_ending=".nrrd")  # the .nii.gz files are not meant
    put(tmp_path, "imagesTr/lung_0000.nrrd", "labelsTr/lung.nrrd")
    assert labelled(read_dataset(tmp_path)) == ids(read_dataset(tmp_path)) == ["lung"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"whole": [1, 2], "core": [2, 3]}}, "'whole' and 'core' overlap, and neither"),
        ({"labels": {"whole": [1, 2], "tumour": [2, 1]}}, "'whole' and 'tumour' have the same"),
        (
            {"labels": {"whole": [1, 2], "core": 2, "kernel": 2}},
            "'core' and 'kernel' have the same",
        ),
        ({"labels": {"background": 0, "whole": [0, 1]}}, "'whole': has the value 0"),
        ({"labels": {"background": 0, "whole": []}}, "'whole': has no value"),
        ({"labels": {"whole": [1, 2.5]}}, r"'whole': 2\.5 is no whole number"),
        ({"labels": {"whole": [1, [2]]}}, r"'whole': \[2\] is no whole number"),
        ({"labels": {"whole": [1, 3], "ignore": 2}}, "'ignore' has the highest value"),
        (
            {"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": [2, 1]},
            "writes 2 for 'whole'.*value 1",
        ),
        (
            {"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": [1]},
            "one value for each of the 2",
        ),
        (
            {"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": "12"},
            "regions_class_order is '12'",
        ),
        ({"labels": {"background": 0, "RV": 2, "ignore": 1}}, "'ignore' has the highest value"),
        ({"labels": {"background": 1, "ignore": 1, "RV": 0}}, "'ignore' has the highest value"),
        ({"labels": {"background": 0, "RV": "one"}}, "'RV': 'one' is no whole number"),
        ({"labels": {"background": 0, "RV": 2.7}}, r"'RV': 2\.7 is no whole number"),
        ({"labels": {"background": 0, "RV": True}}, "'RV': True is no whole number"),
        ({"labels": {"background": 0, "RV": None}}, "'RV': None is no whole number"),
        ({"labels": {"background": 0, "RV": -1}}, "'RV': -1 is no whole number"),
        ({"labels": {"background": 0, "RV": 2**31}}, "'RV': 2147483648 is no whole number"),
        ({"labels": {"background": 0, "RV": 1, "LV": 1}}, "value 1 occurs twice"),
        ({"labels": {"background": 0, "RV": 0}}, "value 0 occurs twice"),
        ({"labels": {"background": 0, "": 1}}, "a class has the name ''"),
        ({"labels": {"0": "background", "1": "RV", "2": "RV"}}, "name 'RV' occurs twice"),
        ({"labels": {"0": "background", "1": "RV", "01": "LV"}}, "value 1 occurs twice"),
        ({"labels": {"0": "background", "1": None}}, "a class has the name None"),
        ({"labels": {"0": "background", "1": "RV", "2.7": "LV"}}, "no whole number"),
        ({"labels": ["background", "RV"]}, "labels must be like"),
        ({"channel_names": ["CT"]}, "channel_names"),
        ({"file_ending": ".png"}, r"'\.png' is not read"),
    ],
)
def test_nnunet_unsupported_description(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    put_nnunet(tmp_path, **changes)
    with pytest.raises(PosconError, match=message) as caught:
        read_dataset(tmp_path)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_nnunet_name_without_channel(tmp_path: Path) -> None:
    put_nnunet(tmp_path)
    put(tmp_path, "imagesTr/heart_4.nii.gz")
    with pytest.raises(PosconError, match=r"heart_4\.nii\.gz: the name has no channel"):
        read_dataset(tmp_path)


def test_nnunet_regions_are_classes_that_do_not_overlap(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    put_nnunet(tmp_path, labels=regions, regions_class_order=[1, 2, 3])
    dataset = read_dataset(tmp_path)
    assert dataset.labels is not None
    assert dataset.labels.names == ("whole_rest", "core_rest", "enhancing")
    assert (dataset.labels.values, dataset.labels.ignore) == ((1, 2, 3), 4)
    (note,) = dataset.notes
    assert "by their label values: whole_rest (1), core_rest (2), enhancing (3)." in note


@pytest.mark.parametrize(("order", "first"), [(None, 1), ([2, 4, 3], 2)])
def test_nnunet_regions_of_several_values(
    tmp_path: Path, order: list[int] | None, first: int
) -> None:
    """Values that no region tells apart are one class, written as nnU-Net writes it."""
    regions = {"background": 0, "kidney": [1, 2], "liver": [3, 4], "tumour": [3]}
    changes = {} if order is None else {"regions_class_order": order}
    put_nnunet(tmp_path, labels=regions, **changes)
    labels = read_dataset(tmp_path).labels
    assert labels is not None
    assert labels.names == ("kidney", "tumour", "liver_rest")
    assert labels.values == (first, 3, 4)
    values = np.array([0, 1, 2, 3, 4])
    assert labels.to_classes(values, where="here").tolist() == [0, 1, 1, 2, 3]


def test_nnunet_a_region_that_others_fill_is_no_class(tmp_path: Path) -> None:
    regions = {"background": 0, "heart": [1, 2], "RV": [1], "LV": [2]}
    put_nnunet(tmp_path, labels=regions, regions_class_order=[1, 1, 2])
    labels = read_dataset(tmp_path).labels
    assert labels is not None
    assert (labels.names, labels.values) == (("RV", "LV"), (1, 2))


def test_nnunet_channels_by_name(tmp_path: Path) -> None:
    put_nnunet(tmp_path, channels=3, channel_names={"0": "T2", "1": "ADC", "2": "DWI"})
    assert read_dataset(tmp_path, channel="adc") == read_dataset(tmp_path, channel=1)
    two = read_dataset(tmp_path, channel="DWI, 0")
    assert two.channels == ("T2", "DWI")
    for case in two.cases:
        assert [file.name for file in case.image_files] == [
            f"{case.id}_0000.nii.gz",
            f"{case.id}_0002.nii.gz",
        ]
    for channel, message in (
        ("T1", "no channel T1; choose from: 0 T2, 1 ADC, 2 DWI"),
        ("T2,", "no channel ; choose from"),
        ("T2,0", "--channel T2,0 names a channel twice"),
    ):
        with pytest.raises(PosconError, match=message):
            read_dataset(tmp_path, channel=channel)
    put_nnunet(tmp_path, channels=3, channel_names={"0": "T2", "1": "T2", "2": "2"})
    with pytest.raises(PosconError, match="2 channels have the name T2; choose by number"):
        read_dataset(tmp_path, channel="T2")
