"""A store, opened for reading."""

import numpy as np
import pytest
from store_examples import refusal

from poscon.store.local import LocalFolder
from poscon.store.store import Store, slices_sha256


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


def test_no_store(tmp_path):
    assert refusal(Store, tmp_path / "x").startswith(f"{tmp_path / 'x'}: not a store")
    assert "not a store" in refusal(Store, tmp_path)


def test_an_unfinished_store(copy):
    (copy / "manifest.json").unlink()
    assert refusal(Store, copy).startswith(f"{copy}: an unfinished store")


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


def test_more_arrays_than_files_may_be_open(made, monkeypatch):
    monkeypatch.setattr("poscon.store.store.OPEN_ARRAYS", 1)
    store = Store(made)
    for _ in range(2):
        for case in store.cases:
            assert (
                slices_sha256(store.image(case), store.label(case) if case.labelled else None)
                == case.stored_sha256
            )


def test_cases_are_selected_in_the_stores_order(made):
    store = Store(made)
    assert [c.id for c in store.select(["c", "a", "c"], where="x")] == ["a", "c"]
    message = refusal(store.select, ["a", "z", "y"], where="list.txt")
    assert message.startswith("list.txt: 2 name(s)")
    assert "y, z" in message
