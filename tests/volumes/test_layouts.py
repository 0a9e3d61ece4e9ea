"""Every layout under its data set's own file names, and what goes wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from dicom_examples import write_series

from poscon.errors import PosconError
from poscon.volumes.case import Channel, Dataset
from poscon.volumes.layouts import LAYOUTS, read_dataset
from poscon.volumes.scan import read_header
from poscon.volumes.series import Series

MILLIMETRES = (1.4, 1.4, 8.0)


def put(root: Path, *names: str, frames: int = 0, spacing: tuple[float, ...] = MILLIMETRES) -> None:
    """Write a tiny scan under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (3, 4, 2, frames) if frames else (3, 4, 2)
        if name.endswith((".nii", ".nii.gz")):
            nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([*spacing, 1])), path)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 4, 3))), str(path))


def describe(root: Path, **content: Any) -> None:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def ids(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases]


def labelled(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases if case.label]


def put_acdc(root: Path) -> None:
    for patient, (ed, es) in {"patient001": (1, 12), "patient002": (2, 9)}.items():
        for frame in (ed, es):
            name = f"{patient}/{patient}_frame{frame:02d}"
            put(root, f"{name}.nii.gz", f"{name}_gt.nii.gz")
        (root / patient / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\n")


def put_mms(root: Path, **how: Any) -> None:
    for subject in ("A0S9V9", "B3F0V9"):
        for frame in ("ED", "ES"):
            name = f"{subject}/{subject}_sa_{frame}"
            put(root, f"{name}.nii.gz", f"{name}_gt.nii.gz", **how)


def put_msd(root: Path, **changes: Any) -> None:
    put(root, "imagesTr/spleen_2.nii.gz", "imagesTr/spleen_3.nii.gz", "imagesTs/spleen_1.nii.gz")
    put(root, "labelsTr/spleen_2.nii.gz", "labelsTr/spleen_3.nii.gz")
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("spleen_2", "spleen_3")
        ],
        "test": ["./imagesTs/spleen_1.nii.gz"],
    }
    describe(root, **(content | changes))


def put_nnunet(root: Path, channels: int = 1, **changes: Any) -> None:
    for channel in range(channels):
        put(root, *(f"imagesTr/heart_{case}_{channel:04d}.nii.gz" for case in (1, 2)))
        put(root, f"imagesTs/heart_3_{channel:04d}.nii.gz")
    put(root, "labelsTr/heart_1.nii.gz", "labelsTr/heart_2.nii.gz")
    content = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": {"background": 0, "LV": 3, "RV": 1},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    describe(root, **(content | changes))


def put_chd(root: Path) -> None:
    put(root, *(f"ct_{n}_{kind}.nii.gz" for n in (1001, 1128) for kind in ("image", "label")))


def put_mmwhs(root: Path) -> None:
    for name in ("ct_train_1001", "mr_train_1001"):
        put(root, f"{name}_image.nii.gz", f"{name}_label.nii.gz")
    put(root, "ct_test_2001_image.nii.gz")


def put_hvsmr(root: Path) -> None:
    for number in (0, 9):
        name = f"training_sa_crop_pat{number}"
        put(root, f"{name}.nii.gz", f"{name}-label.nii.gz")


def put_totalsegmentator(root: Path) -> None:
    for subject, image in (("s0001", "ct"), ("s0002", "ct"), ("s0003", "mri")):
        put(root, f"{subject}/{image}.nii.gz")
        put(root, *(f"{subject}/segmentations/{organ}.nii.gz" for organ in ("spleen", "liver")))


def put_kits(root: Path) -> None:
    put(root, "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz")
    put(root, "case_00001/imaging.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz")
    put(root, "case_00210/imaging.nii.gz")


def put_bids(root: Path) -> None:
    for subject in ("sub-01", "sub-02"):
        put(root, f"{subject}/anat/{subject}_T1w.nii.gz")
        put(root, f"derivatives/manual/{subject}/anat/{subject}_T1w_dseg.nii.gz")


def put_dicom(root: Path) -> None:
    for name in ("one", "two"):
        write_series(root / name, np.zeros((3, 4, 5), np.int16), name=name)
        put(root, f"{name}_seg.nii.gz")


def put_plain(root: Path) -> None:
    put(root, "a.nii.gz", "b.nrrd", "c.mha")


PUT = {
    "acdc": put_acdc,
    "mms": put_mms,
    "mmwhs": put_mmwhs,
    "chd": put_chd,
    "hvsmr": put_hvsmr,
    "nnunet": put_nnunet,
    "msd": put_msd,
    "totalsegmentator": put_totalsegmentator,
    "kits": put_kits,
    "bids": put_bids,
    "dicom": put_dicom,
    "plain": put_plain,
}


# What holds for every layout.


def test_every_layout_is_tested_and_plain_comes_last() -> None:
    assert [layout.name for layout in LAYOUTS] == list(PUT)


@pytest.mark.parametrize("name", PUT)
def test_layout_is_detected_and_only_by_itself_and_plain(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    matching = {layout.name for layout in LAYOUTS if layout.matches(tmp_path)}
    assert matching == {name, "plain"}
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.root) == (name, tmp_path)
    assert ids(dataset) == sorted(set(ids(dataset)))
    for case in dataset.cases:
        assert isinstance(case.image, Series) or case.image.is_file()
        assert case.label is None or case.label.exists()
    assert read_dataset(tmp_path, name) == dataset


@pytest.mark.parametrize("name", PUT)
def test_hidden_files_are_ignored(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    before = read_dataset(tmp_path)
    for path in list(tmp_path.rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    after = read_dataset(tmp_path)
    assert replace(after, passed_over=()) == before
    (line,) = after.passed_over
    assert line.startswith(f"passed over: {len(list(tmp_path.rglob('._*')))} hidden: ")


@pytest.mark.parametrize("name", PUT)
def test_label_without_image(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    if name == "plain":
        put(tmp_path, "a_gt.nii.gz")
    pairs = [(c.image, c.label) for c in read_dataset(tmp_path).cases if c.label]
    image, label = pairs[0]
    for file in image.files if isinstance(image, Series) else [image]:
        file.unlink()
    if name == "msd":
        describe(tmp_path, modality={"0": "CT"}, labels={"0": "background", "1": "spleen"})
    with pytest.raises(PosconError, match="a label map without its image") as caught:
        read_dataset(tmp_path)
    assert str(label) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in PUT if name not in ("msd", "nnunet")])
def test_channel_is_refused_where_there_are_none(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    with pytest.raises(PosconError, match=f"layout '{name}' has no channels"):
        read_dataset(tmp_path, channel=0)


@pytest.mark.parametrize("name", PUT)
def test_empty_folder_read_as_a_named_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(PosconError, match=r"no cases|dataset\.json: missing") as caught:
        read_dataset(tmp_path, name)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_file_in_place_of_one(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="no such folder"):
        read_dataset(tmp_path / "none")
    put(tmp_path, "a.nii.gz")
    with pytest.raises(PosconError, match="not a folder"):
        read_dataset(tmp_path / "a.nii.gz")


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scans here")
    with pytest.raises(PosconError, match=r"no data set found; looked for .*acdc.*plain"):
        read_dataset(tmp_path)


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"did you mean 'nnunet'\?\); known are acdc, .*plain$"):
        read_dataset(tmp_path, "nnUNetv2")
    with pytest.raises(PosconError, match=r"known are acdc, .*plain$"):
        read_dataset(tmp_path, "zzz")


def test_layout_can_be_overridden(tmp_path: Path) -> None:
    put_acdc(tmp_path)
    dataset = read_dataset(tmp_path, "plain")
    assert dataset.layout == "plain"
    assert dataset.labels is None
    assert len(labelled(dataset)) == 4


def test_a_key_that_is_twice_in_dataset_json(tmp_path: Path) -> None:
    put_nnunet(tmp_path)
    text = (tmp_path / "dataset.json").read_text()
    (tmp_path / "dataset.json").write_text(text.replace('"RV": 1', '"RV": 1, "RV": 2'))
    with pytest.raises(PosconError, match=r"dataset\.json: 'RV' occurs twice"):
        read_dataset(tmp_path)


def test_the_same_case_twice_names_both_files(tmp_path: Path) -> None:
    put(tmp_path, "ct_1001_image.nii.gz", "ct_1001_image.nrrd")
    with pytest.raises(PosconError, match=r"ct_1001_image\.nii\.gz and .*ct_1001_image\.nrrd"):
        read_dataset(tmp_path)


def test_ids_are_safe_file_names(tmp_path: Path) -> None:
    put(tmp_path, "heart (3) left.nii.gz")
    assert ids(read_dataset(tmp_path)) == ["heart_3_left"]
    put(tmp_path, "heart 3 left.nii.gz")
    with pytest.raises(PosconError, match=r"two files for the case 'heart_3_left'"):
        read_dataset(tmp_path)


# ACDC


@pytest.mark.parametrize("home", ["", "training", "database/training"])
def test_acdc(tmp_path: Path, home: str) -> None:
    put_acdc(tmp_path / home)
    dataset = read_dataset(tmp_path)
    found = [(case.id, case.subject, case.frame) for case in dataset.cases]
    assert found == [
        ("patient001_frame01", "patient001", "ED"),
        ("patient001_frame12", "patient001", "ES"),
        ("patient002_frame02", "patient002", "ED"),
        ("patient002_frame09", "patient002", "ES"),
    ]
    assert labelled(dataset) == ids(dataset)
    assert dataset.labels is not None
    assert dict(zip(dataset.labels.names, dataset.labels.values, strict=True)) == {
        "RV": 1,
        "MYO": 2,
        "LV": 3,
    }
    assert dataset.preparation == {"spacing": 1.25, "plane": "auto"}
    assert {case.modality for case in dataset.cases} == {"MR"}


def test_acdc_training_and_testing(tmp_path: Path) -> None:
    put_acdc(tmp_path / "training")
    put(tmp_path, "testing/patient101/patient101_frame01.nii.gz")
    dataset = read_dataset(tmp_path)
    assert len(labelled(dataset)) == 4
    assert dataset.cases[-1].id == "patient101_frame01"
    assert dataset.cases[-1].frame == "frame01"  # there is no Info.cfg
    put(tmp_path, "testing/patient001/patient001_frame01.nii.gz")
    with pytest.raises(PosconError, match="two files for the case 'patient001_frame01'"):
        read_dataset(tmp_path)


def test_acdc_cine_adds_the_frames_that_have_no_file_of_their_own(tmp_path: Path) -> None:
    put_acdc(tmp_path)
    put(tmp_path, "patient002/patient002_4d.nii.gz", frames=10)
    dataset = read_dataset(tmp_path)
    cine = [case for case in dataset.cases if case.frame_index is not None]
    assert [case.id for case in cine] == [
        f"patient002_4d_frame{number:02d}" for number in (1, 3, 4, 5, 6, 7, 8, 10)
    ]
    assert [case.frame_index for case in cine] == [0, 2, 3, 4, 5, 6, 7, 9]
    assert [case.frame for case in cine][:2] == ["frame01", "frame03"]
    assert {case.subject for case in cine} == {"patient002"}
    assert all(case.label is None for case in cine)
    assert len(labelled(dataset)) == 4


def test_acdc_cine_alone(tmp_path: Path) -> None:
    put(tmp_path, "patient001/patient001_4d.nii.gz", frames=2)
    (tmp_path / "patient001" / "Info.cfg").write_text("ED: 1\nES: 2\n")
    dataset = read_dataset(tmp_path)
    assert [case.frame for case in dataset.cases] == ["ED", "ES"]


# M&Ms


@pytest.mark.parametrize("home", ["", "vendor_A"])
def test_mms(tmp_path: Path, home: str) -> None:
    put_mms(tmp_path / home, spacing=(1, 1, 1))
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["A0S9V9_sa_ED", "A0S9V9_sa_ES", "B3F0V9_sa_ED", "B3F0V9_sa_ES"]
    assert [case.frame for case in dataset.cases] == ["ED", "ES"] * 2
    assert {case.subject for case in dataset.cases} == {"A0S9V9", "B3F0V9"}
    assert {case.spacing for case in dataset.cases} == {(1.25, 1.25, 10.0)}
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("RV", "MYO", "LV"), (3, 2, 1))
    notes = " ".join(dataset.notes)
    assert "nominal" in notes
    assert "slice order is mixed" in notes


def test_mms_believes_a_header_that_has_a_spacing(tmp_path: Path) -> None:
    put_mms(tmp_path)
    dataset = read_dataset(tmp_path)
    assert {case.spacing for case in dataset.cases} == {None}
    assert "nominal" not in " ".join(dataset.notes)


# Medical Segmentation Decathlon


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


@pytest.mark.parametrize("put_it", [put_msd, put_nnunet])
def test_what_dataset_json_states_and_the_files_do_not_bear_out(
    tmp_path: Path, put_it: Any
) -> None:
    put_it(tmp_path, numTraining=2)
    assert read_dataset(tmp_path).notes == ()
    put_it(tmp_path, numTraining=3, labels={"0": "RV", "1": "LV"})
    numbers, zero = read_dataset(tmp_path).notes
    assert "3 training cases" in numbers
    assert "2 label maps" in numbers
    assert "calls the value 0 'RV'" in zero
    put_it(tmp_path, labels={"RV": 0, "LV": 1})
    assert "calls the value 0 'RV'" in read_dataset(tmp_path).notes[-1]


def test_nnunet_files_elsewhere_are_not_left_out_in_silence(tmp_path: Path) -> None:
    put_nnunet(tmp_path, dataset={"heart_1": {"images": ["/x/a.nii.gz"], "label": "/x/b.nii.gz"}})
    with pytest.raises(PosconError, match="lists its files under 'dataset'"):
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
    whole = read_dataset(tmp_path)
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


# nnU-Net


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
        ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region"),
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


def test_broken_dataset_json(tmp_path: Path) -> None:
    put_msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(PosconError, match=r"dataset\.json: not valid JSON"):
        read_dataset(tmp_path)


# CHD, MMWHS, HVSMR


def test_chd(tmp_path: Path) -> None:
    put_chd(tmp_path)
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ids(dataset) == ["ct_1001", "ct_1128"]
    assert {case.modality for case in dataset.cases} == {"CT"}
    assert dataset.labels is not None
    assert dataset.labels.names == ("LV", "RV", "LA", "RA", "MYO", "AO", "PA")
    values = np.array([0, 1, 7, 8, 30])
    assert dataset.labels.to_classes(values, where="here").tolist() == [0, 1, 7, 0, 0]


@pytest.mark.parametrize("nested", [False, True])
def test_mmwhs(tmp_path: Path, nested: bool) -> None:
    put_mmwhs(tmp_path)
    if nested:
        for path in list(tmp_path.glob("*.nii.gz")):
            folder = tmp_path / "_".join(path.name.split("_")[:2])
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["ct_test_2001", "ct_train_1001", "mr_train_1001"]
    assert labelled(dataset) == ["ct_train_1001", "mr_train_1001"]
    assert [case.modality for case in dataset.cases] == ["CT", "CT", "MR"]
    assert len({case.subject for case in dataset.cases}) == 3
    assert dataset.labels is not None
    assert dataset.labels.values == (500, 600, 420, 550, 205, 820, 850)
    assert dataset.labels.to_classes(np.array([421]), where="here").tolist() == [3]
    assert dataset.preparation == {"spacing": 1.0}


def test_hvsmr(tmp_path: Path) -> None:
    put_hvsmr(tmp_path)
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["training_sa_crop_pat0", "training_sa_crop_pat9"]
    assert [case.subject for case in dataset.cases] == ["pat0", "pat9"]
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("MYO", "BP"), (1, 2))
    assert dataset.preparation == {"spacing": 0.7}


# TotalSegmentator, KiTS, BIDS


def test_totalsegmentator(tmp_path: Path) -> None:
    put_totalsegmentator(tmp_path)
    dataset = read_dataset(tmp_path)
    assert [(case.id, case.modality) for case in dataset.cases] == [
        ("s0001", "CT"),
        ("s0002", "CT"),
        ("s0003", "MR"),
    ]
    assert dataset.cases[0].label == tmp_path / "s0001" / "segmentations"
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("liver", "spleen"), (1, 2))
    assert dataset.passed_over == ()


def test_kits(tmp_path: Path) -> None:
    put_kits(tmp_path)
    put(tmp_path, "case_00001/segmentations/kidney_instance-1_annotation-1.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["case_00000", "case_00001", "case_00210"]
    assert labelled(dataset) == ["case_00000", "case_00001"]
    assert {case.modality for case in dataset.cases} == {"CT"}
    assert any("annotation-1" in line for line in dataset.passed_over)


@pytest.mark.parametrize(
    "label",
    [
        "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_T1w_dseg.nii.gz",
        "derivatives/sub-01/anat/sub-01_desc-manual_dseg.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_space-orig_atlas-x_dseg.nii.gz",
        "sub-01/anat/sub-01_T1w_dseg.nii.gz",
    ],
)
def test_bids(tmp_path: Path, label: str) -> None:
    put(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")
    put(tmp_path, label)
    passed_over = [
        "derivatives/prep/sub-01/anat/sub-01_space-MNI152_dseg.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_label-GM_probseg.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
    ]
    put(tmp_path, *passed_over)
    dataset = read_dataset(tmp_path)
    found = [(case.id, case.subject, case.label) for case in dataset.cases]
    assert found == [
        ("sub-01_T1w", "sub-01", tmp_path / label),
        ("sub-02_ses-1_T1w", "sub-02", None),
    ]
    (line,) = dataset.passed_over
    assert line.startswith("passed over: 4 scan file(s) not read: ")


def test_bids_tables_name_the_classes(tmp_path: Path) -> None:
    put_bids(tmp_path)
    table = tmp_path / "derivatives" / "manual" / "desc-x_dseg.tsv"
    table.write_text("index\tname\n0\tbackground\n4\tGM\n2\tWM\n")
    labels = read_dataset(tmp_path).labels
    assert labels is not None
    assert (labels.names, labels.values) == (("GM", "WM"), (4, 2))
    table.write_text("index\tname\n1\tGM\n1\tWM\n")
    with pytest.raises(PosconError, match=r"x_dseg\.tsv: the label value 1 occurs twice"):
        read_dataset(tmp_path)


def test_bids_segmentations_that_contradict_each_other(tmp_path: Path) -> None:
    put_bids(tmp_path)
    put(tmp_path, "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(PosconError, match=r"sub-01_T1w\.nii\.gz: two segmentations"):
        read_dataset(tmp_path)


def test_bids_a_segmentation_of_one_of_two_scans(tmp_path: Path) -> None:
    put(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/m/sub-01/anat/sub-01_dseg.nii.gz")
    put(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz", spacing=(1, 1, 5))
    assert labelled(read_dataset(tmp_path)) == ["sub-01_T1w"]  # by its grid
    put(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    with pytest.raises(PosconError, match=r"may belong to sub-01_T1w.*or to sub-01_T2w"):
        read_dataset(tmp_path)


# Plain folders


def test_plain_without_labels(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "more/b.nrrd", "more/c.mha", ".cache/d.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == [case.subject for case in dataset.cases] == ["a", "b", "c"]
    assert labelled(dataset) == []
    assert dataset.labels is None


def test_plain_images_and_labels_folders(tmp_path: Path) -> None:
    put(tmp_path, "images/a.nii.gz", "images/b_seg.nii.gz", "labels/a.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["a", "b_seg"]
    assert labelled(dataset) == ["a"]


@pytest.mark.parametrize("suffix", ["_gt", "_seg", "_label", "-label", "_mask"])
def test_plain_label_next_to_its_image(tmp_path: Path, suffix: str) -> None:
    put(tmp_path, "a.nrrd", f"a{suffix}.nii.gz", "sub/b.nii.gz", f"sub/b{suffix}.nii.gz", "c.mha")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == ["a", "b", "c"]
    assert labelled(dataset) == ["a", "b"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.nii.gz", "a_GT.nii.gz"),
        ("a.nii.gz", "a_Seg.nii.gz"),
        ("a.nrrd", "a.seg.nrrd"),
        ("a.nrrd", "a-label.nrrd"),
        ("a.nrrd", "a-seg-label.nrrd"),
        ("a.nii.gz", "a_dseg.nii.gz"),
        ("a.nii.gz", "a_segmentation.nii.gz"),
        ("a.nii.gz", "a_manual.nii.gz"),
        ("a.nii.gz", "a_ground_truth.nii.gz"),
        ("a.nii.gz", "mask_a.nii.gz"),
        ("a_image.nii.gz", "a_mask.nii.gz"),
        ("volume-0.nii", "segmentation-0.nii"),
        ("img_0001.nii.gz", "label_0001.nii.gz"),
        ("p1/ct.nii.gz", "p1/segmentation.nii.gz"),
        ("p1/scan.nii.gz", "p1/Mask.nii.gz"),
        ("images/a.nii.gz", "masks/a.nii.gz"),
        ("images/a.nii.gz", "mask/a_mask.nii.gz"),
        ("Images/a.nii.gz", "GT/a.nii.gz"),
        ("images/a.nii.gz", "annotations/a.nii.gz"),
        ("images/a_0000.nii.gz", "labels/a.nii.gz"),
        ("images_tr/a.nii.gz", "labels_tr/a.nii.gz"),
        ("p1/images/a.nii.gz", "p1/segmentations/a.nii.gz"),
        ("train/scans/a.nii.gz", "train/groundtruth/a.nii.gz"),
        ("a.nii.gz", "labels/a.nii.gz"),
    ],
)
def test_plain_label_maps_under_other_names(tmp_path: Path, image: str, label: str) -> None:
    put(tmp_path, image, label, "other.nii.gz")
    dataset = read_dataset(tmp_path)
    assert len(dataset.cases) == 2
    (case,) = (case for case in dataset.cases if case.label)
    assert (case.image, case.label) == (tmp_path / image, tmp_path / label)


@pytest.mark.parametrize("parts", [("train", "test"), ("tr", "ts"), ("training", "validation")])
@pytest.mark.parametrize("folders", ["{}/images {}/labels", "images/{} labels/{}", "img_{} gt_{}"])
def test_plain_parts_of_a_split_may_have_the_same_names(
    tmp_path: Path, parts: tuple[str, str], folders: str
) -> None:
    for part in parts:
        put(tmp_path, *(f"{folder.format(part)}/c.nii.gz" for folder in folders.split()))
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == labelled(dataset) == [f"{part}_c" for part in sorted(parts)]
    assert len({case.subject for case in dataset.cases}) == 2


def test_plain_a_label_map_that_may_belong_to_two_images(tmp_path: Path) -> None:
    put(tmp_path, "p/ct.nii.gz", "p/mr.nii.gz", "p/segmentation.nii.gz")
    with pytest.raises(PosconError, match=r"segmentation\.nii\.gz: may be the label map of"):
        read_dataset(tmp_path)


def test_plain_predictions_are_no_scans(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "out/a.nii.gz")
    content = {"classes": [{"name": "RV", "values": [1]}]}
    (tmp_path / "out" / "labels.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert (ids(dataset), labelled(dataset)) == (["a"], [])
    assert any("out: a folder of predictions" in note for note in dataset.notes)
    assert any("out/a.nii.gz" in line for line in dataset.passed_over)
    with pytest.raises(PosconError, match="out: a folder of label maps"):
        read_dataset(tmp_path / "out")


def test_plain_labels_file_beside_the_label_maps_says_what_they_mean(tmp_path: Path) -> None:
    put(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    content = {"classes": [{"name": "RV", "values": [3]}]}
    (tmp_path / "labels" / "labels.json").write_text(json.dumps(content))
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["a"]
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("RV",), (3,))


@pytest.mark.parametrize("names", [(), ("RV",)])
def test_plain_labels_file_says_what_is_not_labelled(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    put(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    classes = [{"name": name, "values": [3]} for name in names]
    path = tmp_path / "labels" / "labels.json"
    path.write_text(json.dumps({"classes": classes, "ignore": 255}))
    stated = read_dataset(tmp_path).labels
    assert stated is not None
    assert (stated.names, stated.ignore) == (names, 255)
    for ignore, words in ((3.5, "3.5 is no whole number"), (0, "the value 0 cannot mean")):
        path.write_text(json.dumps({"classes": classes, "ignore": ignore}))
        with pytest.raises(PosconError, match=rf"labels\.json: ignore: .*{words}"):
            read_dataset(tmp_path)


def test_plain_labels_files_that_differ(tmp_path: Path) -> None:
    for part, value in (("train", 1), ("test", 2)):
        put(tmp_path, f"{part}/images/a.nii.gz", f"{part}/labels/a.nii.gz")
        content = {"classes": [{"name": "RV", "values": [value]}]}
        (tmp_path / part / "labels" / "labels.json").write_text(json.dumps(content))
    with pytest.raises(PosconError, match=r"test/labels/labels\.json and .*train/labels"):
        read_dataset(tmp_path)


def test_plain_a_labels_file_of_another_program_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz")
    (tmp_path / "labels.json").write_text('{"1": "liver"}')
    assert ids(read_dataset(tmp_path)) == ["a"]


def test_plain_segments_of_slicer_name_the_classes(tmp_path: Path) -> None:
    put(tmp_path, "a.nrrd", "b.nrrd")
    for name, segments in (("a", ("liver", "spleen")), ("b", ("spleen",))):
        image = SimpleITK.GetImageFromArray(np.zeros((2, 4, 3), np.uint8))
        for number, segment in enumerate(segments):
            image.SetMetaData(f"Segment{number}_Name", segment)
            image.SetMetaData(f"Segment{number}_LabelValue", str(number + 1))
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.seg.nrrd"))
    dataset = read_dataset(tmp_path)
    assert labelled(dataset) == ["a", "b"]
    assert dataset.labels is not None
    assert (dataset.labels.names, dataset.labels.values) == (("liver", "spleen"), (1, 2))
    put(tmp_path, "c.nrrd", "c.seg.nrrd")
    with pytest.raises(PosconError, match=r"c\.seg\.nrrd: has no names of segments"):
        read_dataset(tmp_path)


def test_plain_a_data_set_within(tmp_path: Path) -> None:
    put_nnunet(tmp_path / "Dataset001")
    with pytest.raises(PosconError, match=r"Dataset001 in it has imagesTr"):
        read_dataset(tmp_path)


def test_plain_two_label_maps_of_one_image(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "a_gt.nii.gz", "a_seg.nii.gz")
    with pytest.raises(PosconError, match=r"a_gt\.nii\.gz and .*a_seg\.nii\.gz"):
        read_dataset(tmp_path)


def test_plain_equal_names_in_folders_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/t1_gt.nii.gz", "p2/t2.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset) == [case.subject for case in dataset.cases] == ["p1_t1", "p2_t1", "t2"]
    assert labelled(dataset) == ["p2_t1"]
    put(tmp_path, "p1_t1.nii.gz")
    with pytest.raises(PosconError, match="two files for the case 'p1_t1'"):
        read_dataset(tmp_path)


def test_plain_frames_of_a_series_are_cases_of_one_subject(tmp_path: Path) -> None:
    put(tmp_path, "cine.nii.gz", frames=100)
    put(tmp_path, "still.nii.gz")
    dataset = read_dataset(tmp_path)
    assert ids(dataset)[:2] == ["cine_frame001", "cine_frame002"]
    assert [case.frame_index for case in dataset.cases] == [*range(100), None]
    assert {case.subject for case in dataset.cases} == {"cine", "still"}
    put(tmp_path, "cine_gt.nii.gz", frames=100)
    with pytest.raises(PosconError, match=r"cine\.nii\.gz: 4-D with a label map"):
        read_dataset(tmp_path)


def test_plain_broken_file_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(PosconError, match=r"b\.nii\.gz: the file is empty"):
        read_dataset(tmp_path)


# Real scans


@pytest.mark.parametrize(
    ("folder", "layout", "cases", "subjects"),
    [
        ("acdc", "acdc", 160, 80),
        ("acdc/training", "acdc", 160, 80),
        ("mms", "mms", 80, 40),
        ("mms/vendor_B", "mms", 40, 20),
        ("msd/Task04_Hippocampus", "msd", 192, 192),
    ],
)
def test_real_data(shared_data: Path, folder: str, layout: str, cases: int, subjects: int) -> None:
    dataset = read_dataset(shared_data / folder)
    assert dataset.layout == layout
    assert len(labelled(dataset)) == len(dataset.cases) == cases
    assert len({case.subject for case in dataset.cases}) == subjects
    for case in dataset.cases:
        assert case.label is not None
        assert read_header(case.image).shape == read_header(case.label).shape
