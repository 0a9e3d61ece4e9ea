"""What holds for every layout of a folder, and what goes wrong with any of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from layout_examples import FOLDERS, PUT, describe, ids, labelled, put, put_acdc

from poscon.errors import PosconError
from poscon.volumes.layouts import LAYOUTS, read_dataset
from poscon.volumes.scan import read_header
from poscon.volumes.series import Series


def test_every_layout_is_tested_and_plain_comes_last() -> None:
    assert [layout.name for layout in LAYOUTS] == list(PUT)


@pytest.mark.parametrize("name", FOLDERS)
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


@pytest.mark.parametrize("name", FOLDERS)
def test_hidden_files_are_ignored(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    before = read_dataset(tmp_path)
    for path in list(tmp_path.rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    after = read_dataset(tmp_path)
    assert replace(after, passed_over=()) == before
    (line,) = after.passed_over
    assert line.startswith(f"passed over: {len(list(tmp_path.rglob('._*')))} hidden: ")


@pytest.mark.parametrize("name", FOLDERS)
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


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in ("msd", "nnunet")])
def test_channel_is_refused_where_there_are_none(tmp_path: Path, name: str) -> None:
    PUT[name](tmp_path)
    with pytest.raises(PosconError, match=f"layout '{name}' has no channels"):
        read_dataset(tmp_path, channel=0)


@pytest.mark.parametrize("name", FOLDERS)
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
