"""The Medical Segmentation Decathlon."""

from pathlib import Path
from typing import Any

import pytest
from layout_examples import describe, ids, labelled, put, put_msd

from poscon.errors import PosconError
from poscon.volumes.case import Channel
from poscon.volumes.layouts import read_dataset


def test_msd(tmp_path: Path) -> None:
    put_msd(tmp_path)
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["spleen_1", "spleen_2", "spleen_3"]
    assert labelled(dataset) == ["spleen_2", "spleen_3"]
    assert {(case.modality, case.frame_index) for case in dataset.cases} == {("CT", None)}
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("spleen",), (1,))
    assert read_dataset(tmp_path, channel=0) == dataset


def test_msd_mri(tmp_path: Path) -> None:
    put_msd(tmp_path, modality={"0": "MRI"})
    assert {case.modality for case in read_dataset(tmp_path).cases} == {"MR"}


@pytest.mark.parametrize("name", ["CT", "ct", "CTA", " CT "])
def test_msd_ct_in_every_spelling(tmp_path: Path, name: str) -> None:
    put_msd(tmp_path, modality={"0": name})
    assert {case.modality for case in read_dataset(tmp_path).cases} == {"CT"}


IMAGE, LABEL = "./imagesTr/spleen_2.nii.gz", "./labelsTr/spleen_2.nii.gz"


@pytest.mark.parametrize(
    "entry",
    [
        {"image": IMAGE, "label": LABEL, "fold": 0, "weight": 0.5, "site": None},
        {"image": [IMAGE], "label": [LABEL], "meta": {"age": 3}},
        {"image": IMAGE, "label": LABEL, "classes": ["a", "b"]},
        {"fold": 1},
    ],
)
def test_msd_further_fields_of_an_entry_say_nothing_of_files(tmp_path: Path, entry: Any) -> None:
    put_msd(tmp_path)
    expected = read_dataset(tmp_path)
    put_msd(tmp_path, training=[entry])
    assert read_dataset(tmp_path) == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": 3, "label": LABEL}, "names 3, which is no file name"),
        ({"image": [IMAGE, None]}, "which is no file name"),
        ({"image": IMAGE, "label": "./labelsTr/spleen_3.nii.gz"}, "pairs spleen_2.*spleen_3"),
        ({"image": "./imagesTs/spleen_1.nii.gz"}, "is listed but not in imagesTr"),
        ({"image": "../elsewhere/imagesTr/spleen_1.nii.gz"}, "is listed but not in imagesTr"),
    ],
)
def test_msd_entries_that_are_not_read_as_they_say(
    tmp_path: Path, entry: Any, message: str
) -> None:
    put_msd(tmp_path, training=[entry])
    with pytest.raises(PosconError, match=rf"dataset\.json: .*{message}"):
        read_dataset(tmp_path)


def test_msd_takes_unlisted_files_and_misses_listed_ones(tmp_path: Path) -> None:
    put_msd(tmp_path)
    put(tmp_path, "imagesTr/spleen_4.nii.gz")
    assert "spleen_4" in ids(read_dataset(tmp_path))
    (tmp_path / "labelsTr" / "spleen_3.nii.gz").unlink()
    with pytest.raises(PosconError, match=r"labelsTr/spleen_3\.nii\.gz: listed .* \(1 of 4"):
        read_dataset(tmp_path)


def test_msd_channels(tmp_path: Path) -> None:
    names = ("BRATS_001", "BRATS_002")
    put(tmp_path, *(f"imagesTr/{name}.nii.gz" for name in names), frames=2)
    put(tmp_path, *(f"labelsTr/{name}.nii.gz" for name in names))
    modality = {"0": "FLAIR", "1": "T1w"}
    describe(tmp_path, modality=modality, labels={"0": "background", "1": "edema"})
    dataset = read_dataset(tmp_path, channel=1)
    assert labelled(dataset) == list(names)
    assert dataset.channels == ("T1w",)
    for case in dataset.cases:
        assert case.channels == (Channel(case.image, 1, "MR"),)
        assert case.frame_index is None
    assert read_dataset(tmp_path, channel="t1W") == dataset
    whole = read_dataset(tmp_path)
    assert read_dataset(tmp_path, channel="T1w,FLAIR") == whole
    assert whole.channels == ("FLAIR", "T1w")
    for case in whole.cases:
        assert case.channels == tuple(Channel(case.image, i, "MR") for i in (0, 1))
        assert case.image_files == (case.image,)
    with pytest.raises(PosconError, match="no channel 2; choose from: 0 FLAIR, 1 T1w"):
        read_dataset(tmp_path, channel=2)
    put(tmp_path, "imagesTr/BRATS_003.nii.gz")
    with pytest.raises(PosconError, match=r"BRATS_003\.nii\.gz: shape .* states 2 channels"):
        read_dataset(tmp_path, channel=1)


def test_msd_number_0000_is_not_mistaken_for_a_channel(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/heart_0000.nii.gz", "labelsTr/heart_0000.nii.gz")
    describe(tmp_path, modality={"0": "MRI"}, labels={"0": "background", "1": "LA"})
    assert (read_dataset(tmp_path).layout, ids(read_dataset(tmp_path))) == ("msd", ["heart_0000"])
