import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.store.local import LocalFolder
from poscon.store.store import Store, read_names, slices_sha256, write_json


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A store of three cases, the last one not labelled."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(["a", "b", "c"]):
        volume = np.random.default_rng(seed).normal(size=(5, 6, 3)).astype(np.float32)
        (folder / "scans").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.diag([1, 1, 4, 1])), folder / f"scans/{name}.nii")
        if name != "c":
            labels = (volume > 0).astype(np.uint8)
            nib.save(
                nib.Nifti1Image(labels, np.diag([1, 1, 4, 1])), folder / f"scans/{name}_seg.nii"
            )
    prepare(folder / "scans", folder / "store", labels="1=LV")
    return folder / "store"


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(PosconError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(store: Path, change) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_store_is_read(made):
    store = Store(str(made))
    assert store.class_names == ("LV",)
    assert [case.id for case in store.cases] == ["a", "b", "c"]
    case = store.cases[0]
    image, label = store.image(case), store.label(case)
    assert isinstance(image.base, np.memmap)
    assert isinstance(label.base, np.memmap)
    assert not image.flags.writeable
    assert (image.dtype, label.dtype) == (np.float16, np.uint8)
    slices, rows, columns = case.shape
    assert (image.shape, label.shape) == ((slices, 1, rows, columns), case.shape)
    assert store.channels == len(case.channels) == 1
    assert store.manifest.channels == ("image",)
    assert slices_sha256(image, label) == case.stored_sha256
    assert slices_sha256(store.image(store.cases[2]), None) == store.cases[2].stored_sha256
    assert store.image(case) is image  # mapped once


@pytest.mark.parametrize("memory", [10**12, 0])
def test_a_store_that_is_larger_than_memory_asks_for_a_slice_first(made, monkeypatch, memory):
    asked = []
    monkeypatch.setattr("poscon.store.local.usable_memory", lambda: memory)
    monkeypatch.setattr(
        "poscon.store.local.will_need", lambda _, begin, end: asked.append((begin, end))
    )
    store, case = Store(made), Store(made).cases[0]
    image = store.image(case)
    assert isinstance(image if memory == 0 else image.base, np.memmap)
    plain = np.load(made / "cases/a/image.npy")
    for key in (0, 2, -1, np.int64(1), slice(1, 3), [0, 2], (1, 0, 2), plain > 0, ...):
        np.testing.assert_array_equal(image[key], plain[key])
    np.testing.assert_array_equal(image[1:][1], plain[2])
    np.testing.assert_array_equal(image[0][0, 1], plain[0, 0, 1])
    with pytest.raises(IndexError):
        image[3]
    size = plain[0].nbytes
    slices = [(128 + n * size, 128 + (n + 1) * size) for n in (0, 2, 2, 1, 0)]
    assert asked == (slices if memory == 0 else [])


@pytest.mark.parametrize("slices", [3, 400])
def test_any_slice_can_be_asked_for(tmp_path, slices):
    array = np.arange(slices * 700, dtype=np.float32).reshape(slices, 70, 10)
    np.save(tmp_path / "x.npy", array)
    folder = LocalFolder(tmp_path)
    folder.in_memory = False
    asking = folder.array("x.npy", "")
    for number in range(slices):
        np.testing.assert_array_equal(asking[number], array[number])


def test_the_case_files_repeat_the_manifest(made):
    content = json.loads((made / "manifest.json").read_text())
    for case in content["cases"]:
        assert json.loads((made / "cases" / case["id"] / "case.json").read_text()) == case


def test_the_manifest_is_written_as_one_text(made):
    plain = Store(made).manifest.model_dump(mode="json")
    assert (made / "manifest.json").read_text() == json.dumps(plain, indent=1) + "\n"


def test_no_store(tmp_path):
    assert refusal(Store, tmp_path / "x").startswith(f"{tmp_path / 'x'}: not a store")
    assert "not a store" in refusal(Store, tmp_path)


def test_an_unfinished_store(copy):
    (copy / "manifest.json").unlink()
    assert refusal(Store, copy).startswith(f"{copy}: an unfinished store")


def test_positions_are_relative(made):
    for case in Store(made).cases:
        assert case.positions.tolist() == [1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("version", [0, 1, 2, 7, 99, "3", None])
def test_another_schema(copy, version):
    rewrite(copy, lambda content: content.update(schema_version=version))
    message = refusal(Store, copy)
    assert str(copy / "manifest.json") in message
    words = f"schema version {version}, this poscon reads 3, 4, 5 and 6; prepare the store again"
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
    ],
)
def test_a_manifest_that_says_something_else(copy, change):
    rewrite(copy, change)
    assert refusal(Store, copy).startswith(f"{copy / 'manifest.json'}: damaged")


@pytest.mark.parametrize("kept", [None, 0, 4, 60, -1])
def test_a_damaged_array(copy, kept):
    path = copy / "cases/b/image.npy"
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    store = Store(copy)
    store.image(store.cases[0])
    assert refusal(store.image, store.cases[1]).startswith(f"{path}: cannot be read")


def test_an_array_of_another_shape(copy):
    np.save(copy / "cases/b/image.npy", np.zeros((3, 1, 6, 6), np.float16))
    store = Store(copy)
    message = refusal(store.image, store.cases[1])
    assert message.startswith(f"{copy}: case b: image.npy is float16 of shape (3, 1, 6, 6)")


def test_the_hash_sees_every_array():
    image, label = np.zeros((2, 3, 4), np.float16), np.zeros((2, 3, 4), np.uint8)
    hashes = {
        slices_sha256(image, None),
        slices_sha256(image, label),
        slices_sha256(image + 1, None),
    }
    label[1, 2, 3] = 1
    assert len(hashes | {slices_sha256(image, label)}) == 4
    swapped = np.asfortranarray(image)
    assert slices_sha256(swapped, None) == slices_sha256(image, None)


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_more_arrays_than_files_may_be_open(made, monkeypatch):
    monkeypatch.setattr("poscon.store.store.OPEN_ARRAYS", 1)
    store = Store(made)
    for _ in range(2):
        for case in store.cases:
            assert (
                slices_sha256(store.image(case), store.label(case) if case.labelled else None)
                == case.stored_sha256
            )


# Lists of cases


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "a\n\n  b  # second\n# none\nc", ["a", "b", "c"]),
        ("l.csv", "a", ["a"]),
        ("l.json", '["a", "b"]', ["a", "b"]),
        ("l.json:train", '{"train": ["a"], "test": ["b"]}', ["a"]),
        ("l.json:two words", '{"two words": ["a"]}', ["a"]),
    ],
)
def test_names(tmp_path, name, text, expected):
    (tmp_path / name.partition(":")[0]).write_text(text)
    assert read_names(f"{tmp_path}/{name}") == expected


def test_names_by_path(tmp_path):
    (tmp_path / "l.txt").write_text("a")
    assert read_names(tmp_path / "l.txt") == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "# nothing\n", "names no case"),
        ("l.json", "[]", "names no case"),
        ("l.json", "{", "not valid JSON"),
        ("l.json", '{"train": ["a"]}', "expected a list of names"),
        ("l.json", "[1, 2]", "expected a list of names"),
        ("l.json:test", '{"train": ["a"]}', "has no key 'test'; its keys: train"),
        ("l.json:test", '["a"]', "has no key 'test'"),
        ("l.json:train", '{"train": "a"}', "expected a list of names"),
    ],
)
def test_lists_that_are_none(tmp_path, name, text, expected):
    file = tmp_path / name.partition(":")[0]
    file.write_text(text)
    message = refusal(read_names, f"{tmp_path}/{name}")
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_lists_that_cannot_be_read(tmp_path):
    assert "cannot read the list" in refusal(read_names, tmp_path / "none.txt")
    for name, content in {
        "broken.txt": b"\xff\xfe\x80",
        "photo.txt": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "utf-16.txt": "a\nb".encode("utf-16"),
        "utf-16.json": '["a"]'.encode("utf-16-be"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot read the list" in refusal(read_names, tmp_path / name)
    assert "cannot read the list" in refusal(read_names, tmp_path)


def test_cases_are_selected_in_the_stores_order(made):
    store = Store(made)
    assert [c.id for c in store.select(["c", "a", "c"], where="x")] == ["a", "c"]
    message = refusal(store.select, ["a", "z", "y"], where="list.txt")
    assert message.startswith("list.txt: 2 name(s)")
    assert "y, z" in message
