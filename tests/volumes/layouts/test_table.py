"""A CSV file of paths in place of a folder."""

import json
from pathlib import Path

import pytest
from layout_examples import ids, labelled, put, put_table

from poscon.errors import PosconError
from poscon.store.names import read_names
from poscon.volumes.layouts import read_dataset


def test_table(tmp_path: Path) -> None:
    table = put_table(tmp_path)
    dataset = read_dataset(table)
    assert (dataset.layout, dataset.root) == ("csv", table.parent)
    assert [(case.id, case.subject) for case in dataset.cases] == [
        ("p1_t2", "p1"),
        ("p2_t2", "p2_t2"),
    ]
    assert labelled(dataset) == ["p1_t2"]
    assert [case.image.resolve() for case in dataset.cases] == [
        tmp_path / "p1" / "t2.nii.gz",
        tmp_path / "p2" / "t2.nii.gz",
    ]
    (note,) = dataset.notes
    assert "test (1), train (1)" in note
    assert "--exclude data.csv:SPLIT" in note
    assert dataset.passed_over == ()
    assert read_dataset(table, "csv") == dataset


def test_table_of_images_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "b, left.nrrd", "cine.nii.gz", frames=2)
    table = put_table(tmp_path, "../a.nii.gz", '"../b, left.nrrd"', "", heading="\ufeffimage")
    dataset = read_dataset(table)
    assert ids(dataset) == ["a_frame01", "a_frame02", "b_left"]
    assert [case.subject for case in dataset.cases] == ["a", "a", "b, left"]
    assert dataset.notes == ()


def test_table_labels_file_beside_the_label_maps(tmp_path: Path) -> None:
    table = put_table(tmp_path)
    content = {"classes": [{"name": "prostate", "values": [2]}]}
    (tmp_path / "p1" / "labels.json").write_text(json.dumps(content))
    labels = read_dataset(table).labels
    assert labels is not None
    assert (labels.names, labels.values) == (("prostate",), (2,))


def test_names_of_cases_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    names = ("x/p1/t2.nii.gz", "y/p1/t2.nii.gz", "y/p2/t2.nrrd", "y/p2/adc.nii.gz")
    put(tmp_path, *names)
    table = put_table(tmp_path, *(f"../{name}" for name in names), heading="image")
    assert ids(read_dataset(table)) == ["adc", "p2_t2", "x_p1_t2", "y_p1_t2"]


def test_splits_name_subjects(tmp_path: Path) -> None:
    lines = ("a.nii,s1,test", "b.nii,s1,test", "c.nii,s0,test", "d.nii,s2,train", "e.nii,s3,")
    table = put_table(tmp_path, *lines, heading="image,subject,split")
    assert read_names(f"{table}:test") == ["s0", "s1"]
    assert read_names(Path(f"{table}:train")) == ["s2"]
    for split in ("val", ""):
        with pytest.raises(PosconError, match=rf"no split '{split}'; its splits: test, train"):
            read_names(f"{table}:{split}")
    put_table(tmp_path, "a.nii", heading="image")
    with pytest.raises(PosconError, match="no split 'test'; its splits: it has none"):
        read_names(f"{table}:test")
    with pytest.raises(PosconError, match="cannot be read"):
        read_names(f"{tmp_path / 'none.csv'}:test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image;label"], "has no row below its heading"),
        (
            ["label,subject", "a,b"],
            "no column 'image'; .* name 'image', and may name 'label,subject,split'",
        ),
        (["image,age", "../a.nii.gz,60"], "a column 'age' that poscon does not know"),
        (["image,label,image", "../a.nii.gz,,../a.nii.gz"], "column 'image' is there twice"),
        (["image"], "no row below its heading"),
        ([], "no column 'image'"),
        (["image,label", "../a.nii.gz"], "line 2: 1 fields, but 2 columns"),
        (["image,label", "../a.nii.gz,,x"], "line 2: 3 fields, but 2 columns"),
        (["image,subject", ",p1"], "line 2: names no image"),
        (["image", "../z.nii.gz"], r"line 2: image .*z\.nii\.gz: no such file; paths are relative"),
        (["image,label", "../a.nii.gz,z.nii.gz"], r"line 2: label .*z\.nii\.gz: no such file"),
        (["image", ".."], r"line 2: image .*: a folder; give one file"),
        (
            ["image", "data.csv"],
            r"line 2: image .*data\.csv: not a file that poscon reads here, \.nii",
        ),
        (["image", "../a.nii.gz", "../tables/../a.nii.gz"], "line 3: the image of .*line 2 once"),
        (["image,label", "../a.nii.gz,../a.nii.gz"], "line 2: the label map is the image itself"),
        (
            ["image,subject,split", "../a.nii.gz,p,train", "../b.nii.gz,p,test"],
            "line 3: subject 'p' is in split 'test' here, and in 'train' in .*line 2",
        ),
        (
            ["image,subject,split", "../a.nii.gz,p,train", "../b.nii.gz,p,"],
            "line 3: subject 'p' is in split '' here, and in 'train'",
        ),
        (["image", '"../a.nii.gz'], "cannot be read as CSV"),
        (["image,label", "../cine.nii.gz,../a.nii.gz"], "4-D with a label map"),
    ],
)
def test_bad_tables(tmp_path: Path, lines: list[str], message: str) -> None:
    put(tmp_path, "a.nii.gz", "b.nii.gz")
    put(tmp_path, "cine.nii.gz", frames=2)
    table = put_table(tmp_path)
    table.write_text("\n".join(lines))
    with pytest.raises(PosconError, match=message) as caught:
        read_dataset(table)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_table_in_another_encoding(tmp_path: Path) -> None:
    table = put_table(tmp_path)
    table.write_text("image,subject\n../p1/t2.nii.gz,Müller\n", encoding="latin-1")
    with pytest.raises(PosconError, match="no text in UTF-8"):
        read_dataset(table)


def test_what_is_no_table(tmp_path: Path) -> None:
    table = put_table(tmp_path)
    with pytest.raises(PosconError, match=r"a table of paths, which the layout 'plain' does not"):
        read_dataset(table, "plain")
    with pytest.raises(PosconError, match=r"the layout 'csv' is a CSV file of paths"):
        read_dataset(tmp_path, "csv")
    with pytest.raises(PosconError, match=r"none\.csv: no such file"):
        read_dataset(tmp_path / "none.csv")
    with pytest.raises(PosconError, match="layout 'csv' has no channels"):
        read_dataset(table, channel=0)
    with pytest.raises(PosconError, match=r"--on-gap: has no effect on the layout 'csv'"):
        read_dataset(table, on_gap="split")
