"""The manifest of a store, and what is refused."""

import json

import pytest
from store_examples import refusal, rewrite

from poscon.store.manifest import write_json
from poscon.store.store import Store


def test_the_case_files_repeat_the_manifest(made):
    content = json.loads((made / "manifest.json").read_text())
    for case in content["cases"]:
        assert json.loads((made / "cases" / case["id"] / "case.json").read_text()) == case


def test_the_manifest_is_written_as_one_text(made):
    plain = Store(made).manifest.model_dump(mode="json")
    assert (made / "manifest.json").read_text() == json.dumps(plain, indent=1) + "\n"


def test_positions_are_relative(made):
    for case in Store(made).cases:
        assert case.positions.tolist() == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("version", [0, 1, 2, 8, 99, "3", None])
def test_another_schema(copy, version):
    rewrite(copy, lambda content: content.update(schema_version=version))
    message = refusal(Store, copy)
    assert str(copy / "manifest.json") in message
    words = f"schema version {version}, this poscon reads 3, 4, 5, 6 and 7; prepare the store again"
    assert words in message


@pytest.mark.parametrize("version", [3, 4])
def test_an_earlier_store_has_no_ranges(copy, version):
    def as_before(content):
        content["schema_version"] = version
        for case in content["cases"]:
            del case["ranges"]

    rewrite(copy, as_before)
    assert all(case.ranges == {} for case in Store(copy).cases)


def test_a_range_of_no_class(copy):
    rewrite(copy, lambda content: content["cases"][0].update(ranges={"RV": [0, 1]}))
    assert "damaged (case a has a range of RV, which is no class)" in refusal(Store, copy)


def test_an_affine_of_another_shape(copy):
    rows = [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    rewrite(copy, lambda content: content["cases"][0].update(affine=rows))
    assert "damaged (the affine of case a is not 4 x 4)" in refusal(Store, copy)


def test_a_store_of_schema_3_is_fully_labelled(copy):
    def as_before(content):
        content["schema_version"] = 3
        for case in content["cases"]:
            for key in ("labelled_slices", "label_file", "affine"):
                del case[key]

    rewrite(copy, as_before)
    store = Store(copy)
    assert any(case.labelled for case in store.cases)
    for case in store.cases:
        assert case.n_labelled_slices == (case.shape[0] if case.labelled else 0)
        assert case.labelled_slice_numbers.tolist() == list(range(case.n_labelled_slices))


def test_class_255_of_schema_3_is_refused(copy):
    classes = [{"name": f"class_{i}", "values": [i]} for i in range(1, 256)]
    rewrite(copy, lambda content: content.update(schema_version=3, classes=classes))
    assert "has 255 classes, a store holds 254" in refusal(Store, copy)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '"store"', "\x00", '{"schema_version": 3}'),
        *(f'{{"schema_version": 3{more}}}' for more in ("", ', "cases": 1', ', "cases": [1]')),
    ],
)
def test_a_damaged_manifest(copy, text):
    (copy / "manifest.json").write_text(text)
    message = refusal(Store, copy)
    assert message.startswith(f"{copy / 'manifest.json'}: damaged")


def test_a_manifest_that_is_no_text(copy):
    (copy / "manifest.json").write_bytes(b"\xff\xfe\x80")
    assert "damaged" in refusal(Store, copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(colour="red"),
        lambda content: content.pop("classes"),
        lambda content: content["cases"][1].update(shape=[1, 2]),
        lambda content: content["cases"][1].pop("channels"),
        lambda content: content["cases"][1]["channels"][0].pop("intensity"),
        lambda content: content["cases"][1].update(channels=[]),
        lambda content: content.update(channels=[]),
        lambda content: content.update(channels=["a", "b"]),
        lambda content: content["cases"][1].update(positions=[0.5, 1.0]),
        lambda content: content["cases"][1]["geometry"].update(colour="red"),
        lambda content: content["preparation"].update(plane="oblique"),
        lambda content: content["cases"][1].update(phase=1.0),
        lambda content: content["cases"][1].update(phase=-0.1),
    ],
)
def test_a_manifest_that_says_something_else(copy, change):
    rewrite(copy, change)
    assert refusal(Store, copy).startswith(f"{copy / 'manifest.json'}: damaged")


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
