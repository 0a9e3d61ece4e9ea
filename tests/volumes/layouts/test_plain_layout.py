"""Any folder of scans."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from layout_examples import ids, labelled, put, put_nnunet

from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.volumes.layouts import read_dataset


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


def test_plain_broken_file_is_a_case_and_does_not_stop_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").touch()
    assert ids(read_dataset(tmp_path)) == ["a", "b"]
    with pytest.raises(PosconError, match=r"b\.nii\.gz: the file is empty"):
        prepare(tmp_path, tmp_path.with_name("store"))
