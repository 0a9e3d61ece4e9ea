"""Batches read from a store whose every pixel says where it comes from."""

import json
import threading
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.slices import with_slices
from poscon.store.store import Store
from poscon.training.data import (
    Batches,
    LabelledBatches,
    SliceReader,
    UnlabelledBatches,
    without_label,
)
from poscon.volumes.case import IGNORE

SHAPES = {"small": (6, 5, 4), "wide": (7, 30, 3), "large": (24, 21, 6)}
SEEDS = range(40)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Three cases of different extents, a few foreground pixels in some slices of each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "scans").mkdir()
    for seed, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        labels = np.zeros(shape, np.uint8)
        labels[-2:, -1:, 1:3] = 1  # in a corner
        labels[2, 1, -1] = 2
        affine = np.diag([1, 1, 5, 1])
        nib.save(nib.Nifti1Image(rng.normal(size=shape), affine), folder / f"scans/{name}.nii")
        nib.save(nib.Nifti1Image(labels, affine), folder / f"scans/{name}_seg.nii")
    return prepare(folder / "scans", folder / "store", spacing="native")


def reader(store: Store, canvas: int, *names: str) -> SliceReader:
    return SliceReader(store, [c for c in store.cases if not names or c.id in names], canvas)


def slow_crop(picture: np.ndarray, canvas: int, top: int, left: int) -> np.ndarray:
    """Pixel by pixel; zero outside the picture."""
    result = np.zeros((canvas, canvas), picture.dtype)
    for i in range(canvas):
        for j in range(canvas):
            y, x = top + i, left + j
            if 0 <= y < picture.shape[0] and 0 <= x < picture.shape[1]:
                result[i, j] = picture[y, x]
    return result


def test_positions_are_of_the_kind_that_is_asked_for(store):
    """Cases of 4, 3 and 6 slices, 5 mm apart."""
    relative = SliceReader(store, store.cases, 8)
    physical = SliceReader(store, store.cases, 8, position="physical")
    expected = [[(i + 1) / case.shape[0] for i in range(case.shape[0])] for case in store.cases]
    np.testing.assert_array_equal(relative.positions, np.float32(np.concatenate(expected)))
    assert relative.limits == (0, 1)
    expected = [
        [5.0 * i - 2.5 * (case.shape[0] - 1) for i in range(case.shape[0])] for case in store.cases
    ]
    np.testing.assert_array_equal(physical.positions, np.float32(np.concatenate(expected)))
    assert physical.limits == (-12.5, 12.5)
    batch = physical.centred(np.array([0, 5]))
    np.testing.assert_array_equal(batch.positions, physical.positions[[0, 5]])


def test_a_slice_has_the_phase_of_its_volume(store):
    """A phase is there only if every volume has one."""
    cases = [replace(case, phase=number / 3) for number, case in enumerate(store.cases)]
    read = SliceReader(store, cases, 8)
    expected = [0.0] * cases[0].shape[0] + [1 / 3] * cases[1].shape[0] + [2 / 3] * cases[2].shape[0]
    np.testing.assert_array_equal(read.phases, np.float32(expected))
    generator = np.random.default_rng(0)
    for batch in (
        read.centred(np.array([12, 0, cases[0].shape[0]])),
        read.windows(np.array([12, 0, cases[0].shape[0]]), generator, 4),
        read.windows(np.array([12, 0, cases[0].shape[0]]), generator, 4, oversample_foreground=0.5),
    ):
        np.testing.assert_array_equal(batch.phases, np.float32([2 / 3, 0, 1 / 3]))
    read = SliceReader(store, [*cases[:2], store.cases[2]], 8)
    assert read.phases is None
    assert read.centred(np.array([0])).phases is None


def where(store: Store, read: SliceReader, index: int):
    case = read.cases[read.case_of[index]]
    number = read.slice_of[index]
    return store.image(case)[number, 0], store.label(case)[number]


# Centred


@pytest.mark.parametrize("canvas", [1, 4, 5, 16, 23, 40])
def test_the_middle_of_a_slice_is_the_middle_of_the_canvas(store, canvas):
    read = reader(store, canvas)
    batch = read.centred(np.arange(len(read)))
    assert batch.images.shape == (13, 1, canvas, canvas)
    assert batch.labels is None
    for index in range(len(read)):
        picture, _ = where(store, read, index)
        top, left = (n // 2 - canvas // 2 for n in picture.shape)
        expected = slow_crop(picture, canvas, top, left)
        np.testing.assert_array_equal(batch.images[index, 0], expected)


def test_every_slice_has_its_own_position(store):
    read = reader(store, 8)
    batch = read.centred(np.arange(len(read)))
    expected = np.concatenate([np.array(case.positions) for case in read.cases])
    np.testing.assert_allclose(batch.positions, expected, rtol=1e-6)
    assert batch.positions.dtype == torch.float32
    backwards = read.centred(np.arange(len(read))[::-1])
    np.testing.assert_array_equal(backwards.positions, batch.positions.flip(0))
    np.testing.assert_array_equal(backwards.images, batch.images.flip(0))


def test_only_the_chosen_cases_are_read(store):
    read = reader(store, 8, "wide")
    assert len(read) == 3
    assert {case.id for case in read.cases} == {"wide"}


def test_a_batch_is_a_copy(store):
    read = reader(store, 40)
    read.centred(np.array([0])).images.fill_(7)
    assert not (read.centred(np.array([0])).images == 7).any()


# Labelled


def place(picture: np.ndarray, canvas: np.ndarray) -> tuple[int, int]:
    """Where the canvas' corner lies in the picture, found by comparing every possibility."""
    size = len(canvas)
    found = [
        (top, left)
        for top in range(-size, picture.shape[0] + 1)
        for left in range(-size, picture.shape[1] + 1)
        if np.array_equal(slow_crop(picture, size, top, left), canvas)
    ]
    assert len(found) == 1
    return found[0]


def labelled(read, index, seed, extent, foreground):
    generator = np.random.default_rng(seed)
    batch = read.windows(np.array([index]), generator, extent, foreground)
    return batch.images[0, 0].numpy(), batch.labels[0].numpy(), float(batch.positions[0])


@pytest.mark.parametrize(("canvas", "extent"), [(8, 8), (12, 8), (11, 6)])
@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_the_window_lies_inside_the_slice_or_around_it(store, canvas, extent, foreground):
    read = reader(store, canvas)
    margin = canvas // 2 - extent // 2
    for seed in range(2):
        for index in range(0, len(read), 2):
            image, label, position = labelled(read, index, seed, extent, foreground)
            picture, classes = where(store, read, index)
            corner = place(picture, image)
            np.testing.assert_array_equal(label, slow_crop(classes, canvas, *corner))
            assert position == pytest.approx(read.positions[index])
            for start, length in zip(corner, picture.shape, strict=True):
                first = start + margin  # of the window
                low, high = sorted((0, length - extent))
                assert low <= first <= high


def window(canvas: np.ndarray, extent: int) -> np.ndarray:
    """What an unturned view of ``extent`` pixels shows of a canvas."""
    start = len(canvas) // 2 - extent // 2
    return canvas[start : start + extent, start : start + extent]


@pytest.mark.parametrize(("canvas", "extent"), [(4, 4), (8, 4), (12, 8), (40, 34)])
def test_a_window_on_the_foreground_shows_some(store, canvas, extent):
    read = reader(store, canvas)
    for index in range(len(read)):
        _, classes = where(store, read, index)
        if classes.any():
            for seed in SEEDS:
                _, label, _ = labelled(read, index, seed, extent, 1.0)
                assert window(label, extent).any()


def test_every_foreground_pixel_gets_its_turn(store):
    read = reader(store, 2, "large")
    (index,) = [i for i in range(len(read)) if read.slice_of[i] == 5]
    shown = {tuple(np.unique(labelled(read, index, seed, 2, 1.0)[1])) for seed in SEEDS}
    assert shown == {(0, 2)}
    index = 1  # class 1 has two pixels there
    _, classes = where(store, read, index)
    assert (classes > 0).sum() == 2
    corners = {
        place(where(store, read, index)[0], labelled(read, index, seed, 2, 1.0)[0])
        for seed in SEEDS
    }
    assert len(corners) == 2


def test_a_slice_without_foreground_is_still_read(store):
    read = reader(store, 8, "large")
    image, label, _ = labelled(read, 0, 0, 8, 1.0)
    assert image.any()
    assert not label.any()


def test_without_foreground_windows_the_whole_slice_is_seen(store):
    """Uniformly: every place a window fits is drawn, corners included."""
    read = reader(store, 20, "large")
    generator = np.random.default_rng(0)
    batch = read.windows(np.ones(600, int), generator, 20, 0.0)
    picture, _ = where(store, read, 1)
    tally: dict[tuple[int, int], int] = {}
    for image in batch.images[:, 0].numpy():
        for top in range(picture.shape[0] - 19):
            for left in range(picture.shape[1] - 19):
                if np.array_equal(picture[top : top + 20, left : left + 20], image):
                    tally[top, left] = tally.get((top, left), 0) + 1
    expected = {(i, j) for i in range(picture.shape[0] - 19) for j in range(picture.shape[1] - 19)}
    assert set(tally) == expected
    assert sum(tally.values()) == 600
    assert min(tally.values()) > 600 / len(expected) / 2


def test_a_small_slice_lies_anywhere_in_the_window(store):
    read = reader(store, 8, "small")  # 5 rows, 6 columns
    corners = {
        place(where(store, read, 0)[0], labelled(read, 0, seed, 8, 1.0)[0]) for seed in range(200)
    }
    assert corners == {(i, j) for i in range(-3, 1) for j in range(-2, 1)}


def test_the_share_of_foreground_windows(store):
    read = reader(store, 4, "large")
    generator = np.random.default_rng(0)
    shown = []
    for share in (0.0, 0.5, 1.0):
        labels = read.windows(np.full(400, 1), generator, 4, share).labels
        shown.append(float(labels.flatten(1).any(1).float().mean()))
    assert shown[0] < 0.1
    assert shown[1] == pytest.approx(0.5 + shown[0] / 2, abs=0.1)
    assert shown[2] == 1


# Batches


def same(a, b) -> bool:
    return all(
        x is y is None or torch.equal(x, y)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def unlabelled(store, **told) -> UnlabelledBatches:
    how = {"batch_size": 4, "epochs": 3, "seed": 5, "chunk_steps": 2} | told
    return UnlabelledBatches(reader(store, 8), **how)


def drawn_labelled(store, **told) -> LabelledBatches:
    how = {"batch_size": 4, "extent": 6, "iterations": 7, "oversample_foreground": 0.5, "seed": 5}
    return LabelledBatches(reader(store, 8), **(how | {"chunk_steps": 3} | told))


class _Seen(SliceReader):
    """Remembers which slices it was asked for."""

    def centred(self, indices):
        self.asked.extend(indices.tolist())
        return super().centred(indices)


@pytest.mark.parametrize("batch_size", [1, 4, 6, 13, 50])
def test_every_slice_once_an_epoch(store, batch_size):
    read = _Seen(store, store.cases, 8)
    batches = UnlabelledBatches(read, batch_size, 3, 5, chunk_steps=100)
    assert batches.sampler.epoch_steps == 13 // min(batch_size, 13)
    assert batches.total_steps == 3 * batches.sampler.epoch_steps
    orders = []
    for epoch in range(3):
        read.asked = []
        for number in range(batches.sampler.epoch_steps):
            assert len(batches.batch(epoch * batches.sampler.epoch_steps + number).images) == min(
                batch_size, 13
            )
        assert len(set(read.asked)) == len(read.asked)
        assert len(read.asked) == 13 - 13 % min(batch_size, 13)
        orders.append(tuple(read.asked))
    assert len(set(orders)) == 3  # another order every epoch


def test_slices_left_over_are_others_the_next_epoch(store):
    read = _Seen(store, store.cases, 8)
    read.asked = []
    batches = UnlabelledBatches(read, 6, 20, 5, chunk_steps=100)
    for step in range(batches.total_steps):
        batches.batch(step)
    assert set(read.asked) == set(range(13))


@pytest.mark.parametrize("make", [unlabelled, drawn_labelled])
def test_a_batch_is_a_function_of_seed_and_step(store, make):
    steps = range(7)
    straight = [make(store).batch(step) for step in steps]
    shared = make(store)
    for step in reversed(steps):  # in any order, from one object
        assert same(shared.batch(step), straight[step])
    for step in steps:
        assert not same(make(store, seed=6).batch(step), straight[step])
    assert all(not same(a, b) for a, b in pairwise(straight))


@pytest.mark.parametrize("make", [unlabelled, drawn_labelled])
def test_from_the_first_step_all_are_gone_through(store, make):
    batches = make(store)
    seen = list(batches.from_step(0))
    assert len(seen) == batches.total_steps
    for step, (batch, seed, progress) in enumerate(seen):
        assert progress == step / batches.total_steps
        assert same(batch, batches.batch(step))
        assert seed == stream(5, "step", step)
    assert list(batches.from_step(batches.total_steps)) == []


def test_iteration_starts_where_the_run_is(store):
    batches = drawn_labelled(store)
    assert [seed for _, seed, _ in batches.from_step(5)] == [
        stream(5, "step", step) for step in (5, 6)
    ]


def test_what_is_read_does_not_depend_on_the_chunks(store):
    a, b = unlabelled(store, chunk_steps=1), unlabelled(store, chunk_steps=3)
    assert all(same(a.batch(step), b.batch(step)) for step in range(9))


@pytest.mark.parametrize(
    ("total", "chunk", "ends"), [(10, 5, [5, 10]), (11, 5, [5, 10, 11]), (1, 5, [1]), (5, 5, [5])]
)
def test_where_chunks_end(total, chunk, ends):
    batches = Batches(0, total, chunk)
    assert [done for done in range(1, total + 1) if batches.ends_chunk(done)] == ends


def test_another_length_leaves_the_batches_alone(store):
    batches = drawn_labelled(store)
    longer = batches.of_length(20, 10)
    assert (longer.total_steps, longer.chunk_steps) == (20, 10)
    assert (batches.total_steps, batches.chunk_steps) == (7, 3)
    assert same(longer.batch(3), batches.batch(3))


def test_a_chunk_is_at_most_an_epoch(store):
    """So that an epoch's end is never passed over unsaved."""
    assert unlabelled(store, chunk_steps=1000).chunk_steps == 3
    assert drawn_labelled(store, chunk_steps=1000).chunk_steps == 7


@pytest.mark.parametrize(("epochs", "chunk_epochs"), [(100, 1), (101, 2), (300, 3), (301, 4)])
def test_a_long_training_has_chunks_of_several_epochs(store, epochs, chunk_epochs):
    """So that looking at the encoder and writing checkpoints stay a small part of it."""
    batches = unlabelled(store, epochs=epochs, chunk_steps=10**6)
    assert batches.chunk_steps == 3 * chunk_epochs
    assert batches.total_steps / batches.chunk_steps <= 100
    assert unlabelled(store, epochs=epochs, chunk_steps=2).chunk_steps == 2


def test_labelled_batches_have_labels_of_their_slices(store):
    batch = drawn_labelled(store, batch_size=9).batch(0)
    assert batch.images.shape == (9, 1, 8, 8)
    assert batch.labels.shape == (9, 8, 8)
    assert batch.labels.dtype == torch.uint8


def test_labelled_batches_draw_all_slices(store):
    batches = drawn_labelled(store, batch_size=50, extent=8)
    positions = torch.cat([batches.batch(step).positions for step in range(4)])
    expected = np.unique(np.concatenate([case.positions for case in store.cases]))
    np.testing.assert_allclose(np.unique(positions), expected, rtol=1e-6)


def test_slices_and_volumes_are_numbered(store):
    """Methods keep a memory of each slice, and pair slices of different volumes, by these."""
    read = reader(store, 4)
    order = np.array([12, 0, 6, 5, 7])
    labelled = read.windows(order, np.random.default_rng(0), 4, 0.5)
    for batch in (read.centred(order), labelled):
        assert batch.slice_ids.tolist() == order.tolist()
        assert batch.volumes.tolist() == [int(read.case_of[index]) for index in order]
    assert labelled.unlabelled is None


@pytest.mark.parametrize(("number", "expected"), [(None, 5), (2, 2), (9, 9)])
def test_unlabelled_slices_go_along_from_their_own_cases(store, number, expected):
    labelled, rest = reader(store, 8, "small"), reader(store, 8, "wide", "large")
    batches = LabelledBatches(labelled, 5, 4, 40, 0.5, 3, 10, rest, number)
    seen = set()
    for step in range(40):
        batch = batches.batch(step)
        assert len(batch.images) == 5
        assert len(batch.unlabelled.images) == expected
        assert batch.unlabelled.labels is None
        seen |= set(batch.unlabelled.slice_ids.tolist())
    assert seen == set(range(len(rest)))


def test_slices_without_labels_say_which_classes_are_possible(store):
    ranges = {"small": {"class_1": (1, 2), "class_2": None}, "wide": {"class_1": (0, 0)}}
    cases = [replace(case, ranges=ranges.get(case.id, {})) for case in store.cases]
    rest = SliceReader(store, cases, 8)
    batches = LabelledBatches(reader(store, 8, "small"), 2, 8, 30, 0.5, 3, 10, rest, 4)
    for step in range(30):
        batch = batches.batch(step)
        assert batch.possible is None
        for row, index in enumerate(batch.unlabelled.slice_ids.tolist()):
            case, number = rest.cases[rest.case_of[index]], int(rest.slice_of[index])
            expected = {
                "small": [True, 1 <= number <= 2, False],
                "wide": [True, number == 0, True],
                "large": [True, True, True],
            }
            assert batch.unlabelled.possible[row].tolist() == expected[case.id]


def test_nothing_is_said_of_classes_where_no_case_has_ranges(store):
    batches = LabelledBatches(reader(store, 8), 2, 8, 30, 0.5, 3, 10, reader(store, 8))
    assert batches.batch(0).unlabelled.possible is None


def partly(store: Store, **slices: tuple[int, ...]) -> list[CaseRecord]:
    """The cases that are named, of each only these slices labelled."""
    cases = {case.id: case for case in store.cases}
    return [with_slices(store, cases[name], numbers) for name, numbers in slices.items()]


def test_only_labelled_slices_are_drawn_as_labelled(store):
    cases = partly(store, small=(1, 3), large=(0,))
    read = SliceReader(store, cases, 8)
    assert read.labelled.tolist() == [1, 3, 4]
    batches = LabelledBatches(read, 5, 8, 20, 0.5, 3, 10)
    drawn = torch.cat([batches.batch(step).slice_ids for step in range(20)])
    assert set(drawn.tolist()) == {1, 3, 4}


def test_the_other_slices_of_a_labelled_case_are_data_without_labels(store):
    labelled = partly(store, small=(1, 3))
    rest = SliceReader(store, [*reader(store, 8, "wide").cases, *labelled], 8)
    which = without_label(rest, labelled)
    assert which.tolist() == [0, 1, 2, 3, 5]
    read = SliceReader(store, labelled, 8)
    batches = LabelledBatches(read, 5, 8, 20, 0.5, 3, 10, rest, 4, which)
    drawn = torch.cat([batches.batch(step).unlabelled.slice_ids for step in range(20)])
    assert set(drawn.tolist()) == {0, 1, 2, 3, 5}


def test_neighbours_come_from_the_volume_whether_labelled_or_not(store):
    (case,) = partly(store, small=(2,))
    read = SliceReader(store, [case], 8, context=1)
    batch = LabelledBatches(read, 3, 8, 5, 0.5, 3, 10).batch(0)
    image = np.asarray(store.image(case))[:, 0]
    for one in batch.images.numpy():
        for channel, number in enumerate((1, 2, 3)):
            assert np.count_nonzero(one[channel]) == np.count_nonzero(image[number])
            np.testing.assert_array_equal(
                np.sort(one[channel][one[channel] != 0]),
                np.sort(image[number][image[number] != 0]),
            )


def test_what_is_not_labelled_is_no_foreground_to_crop_around(store, monkeypatch):
    """With a window on every foreground pixel, all windows show the only one that is labelled."""
    (case,) = reader(store, 8, "large").cases
    label = np.full(case.shape, IGNORE, np.uint8)
    label[2, 5:, :] = 0
    label[2, 20, 23] = 1
    monkeypatch.setattr(Store, "label", lambda *_: label)
    read = SliceReader(store, [case], 4)
    batch = read.windows(np.full(20, 2), np.random.default_rng(0), 4, 1.0)
    assert (batch.labels == 1).any((1, 2)).all()


def test_unlabelled_slices_have_the_windows_of_labelled_ones(store):
    """At a random place of a slice that is larger than the window, drawn by the same rule."""
    read = reader(store, 4, "large")
    indices = np.repeat(np.arange(len(read)), 40)
    without = read.windows(indices, np.random.default_rng(2), 4)
    places = {image.numpy().tobytes() for image in without.images}
    assert len(places) > 10 * len(read)
    for image, index in zip(without.images[:, 0].numpy(), indices, strict=True):
        whole = read.store.image(read.cases[read.case_of[index]])[read.slice_of[index]]
        (whole,) = whole  # one channel
        windows = np.lib.stride_tricks.sliding_window_view(whole, (4, 4)).reshape(-1, 4, 4)
        assert (windows == image).all((1, 2)).any()


def test_windows_without_labels_need_no_label_map(store, monkeypatch):
    def never(*_):
        raise AssertionError("labels were read")

    monkeypatch.setattr(Store, "label", never)
    read = reader(store, 8)
    assert read.windows(np.arange(len(read)), np.random.default_rng(0), 8).labels is None


# Reading ahead, and holding all slices


def test_a_batch_that_cannot_be_read_says_so_when_its_turn_comes(store):
    batches = unlabelled(store, chunk_steps=3)
    read = batches.batch

    def damaged(step: int):
        if step == 1:
            raise PosconError("case x: damaged")
        return read(step)

    batches.batch = damaged
    iterator = batches.from_step(0)
    assert same(next(iterator)[0], read(0))
    with pytest.raises(PosconError, match="case x: damaged"):
        next(iterator)


def test_batches_read_ahead_come_in_their_turn(store):
    batches = drawn_labelled(store, chunk_steps=7)
    read = list(batches.from_step(0))
    assert len(read) == 7
    assert all(same(batch, batches.batch(step)) for step, (batch, _, _) in enumerate(read))


def test_nothing_is_read_beyond_the_last_step(store):
    batches = unlabelled(store, epochs=1)
    read, asked = batches.batch, []
    batches.batch = lambda step: (asked.append(step), read(step))[1]
    list(batches.from_step(1))
    assert asked == [1, 2]


def test_who_stops_early_waits_for_no_more_than_is_being_read(store):
    batches = unlabelled(store, chunk_steps=3)
    threads = threading.active_count()
    iterator = batches.from_step(0)
    next(iterator)
    iterator.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize("canvas", [4, 16])
def test_held_slices_are_the_slices(store, canvas):
    read, held = reader(store, canvas), reader(store, canvas)
    held.hold("cpu")
    indices = np.array([12, 0, 6, 0, 7])
    assert same(held.centred(indices), read.centred(indices))
    assert held._held.nbytes == read.held_bytes


def test_a_gpu_holds_what_fits_in_half_of_it(store, monkeypatch):
    read, held = reader(store, 16), []
    monkeypatch.setattr(read, "hold", held.append)
    for free, fits in ((2 * read.held_bytes + 2, True), (2 * read.held_bytes, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda free=free: (free, 10**12))
        held.clear()
        read.hold_if_it_fits("cuda")
        assert held == (["cuda"] if fits else [])
    held.clear()
    read.hold_if_it_fits("cpu")
    assert held == []


# Several processes


def as_process(monkeypatch, number: int, of: int) -> None:
    monkeypatch.setattr("poscon.training.data.rank", lambda: number)
    monkeypatch.setattr("poscon.training.data.n_processes", lambda: of)


def test_processes_share_a_batch(store, monkeypatch):
    whole = unlabelled(store).batch(1)
    shares = []
    for number in range(2):
        as_process(monkeypatch, number, of=2)
        shares.append(unlabelled(store).batch(1))
    assert [len(share.images) for share in shares] == [2, 2]
    slices = torch.cat([share.slice_ids for share in shares])
    assert sorted(slices.tolist()) == sorted(whole.slice_ids.tolist())


def test_processes_draw_other_views(store, monkeypatch):
    seeds = []
    for number in range(3):
        as_process(monkeypatch, number, of=3)
        seeds.append([seed for _, seed, _ in unlabelled(store, batch_size=3).from_step(0)])
    assert len({seed for of_process in seeds for seed in of_process}) == sum(map(len, seeds))


def test_a_batch_that_cannot_be_shared(store, monkeypatch):
    as_process(monkeypatch, 0, of=3)
    with pytest.raises(PosconError, match="batch = 4: cannot be shared evenly by 3 processes"):
        unlabelled(store)


# Channels and neighbours


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory) -> Store:
    """Two cases of different length with two channels, all labelled."""
    folder = tmp_path_factory.mktemp("channels")
    for seed, (name, slices) in enumerate((("long", 5), ("short", 2))):
        data = np.random.default_rng(seed).normal(size=(9, 7, slices, 2)).astype(np.float32)
        labels = (data[..., 0] > 1).astype(np.uint8)
        affine = np.diag([1, 1, 5, 1])
        for place, content in (("imagesTr", data), ("labelsTr", labels)):
            (folder / "scans" / place).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(content, affine), folder / f"scans/{place}/{name}.nii.gz")
    about = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "x"}}
    (folder / "scans/dataset.json").write_text(json.dumps(about))
    return prepare(folder / "scans", folder / "store", spacing="native")


def slow_context(store: Store, read: SliceReader, index: int, context: int) -> list[np.ndarray]:
    """For each offset, for each channel; within the volume."""
    image = store.image(read.cases[read.case_of[index]])
    number = int(read.slice_of[index])
    return [
        image[min(max(number + offset, 0), len(image) - 1), channel]
        for offset in range(-context, context + 1)
        for channel in range(2)
    ]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("context", [0, 1, 3])
def test_channels_and_neighbours_of_the_middle(two_channels, context, held):
    read = SliceReader(two_channels, two_channels.cases, 8, context)
    if held:
        read.hold("cpu")
        assert read.held_bytes == 7 * 2 * 64 * 2  # each slice once
    order = np.array([6, 0, 3, 4, 5, 1])
    images = read.centred(order).images
    assert images.shape == (6, (2 * context + 1) * 2, 8, 8)
    for row, index in enumerate(order):
        expected = slow_context(two_channels, read, index, context)
        for channel, picture in enumerate(expected):
            top, left = (n // 2 - 4 for n in picture.shape)
            crop = slow_crop(picture, 8, top, left)
            np.testing.assert_array_equal(images[row, channel], crop)


@pytest.mark.parametrize("context", [0, 1, 2])
def test_channels_and_neighbours_of_a_window_are_at_one_place(two_channels, context):
    read = SliceReader(two_channels, two_channels.cases, 6, context)
    plain = SliceReader(two_channels, two_channels.cases, 6)
    for seed in range(10):
        indices = np.array([0, 4, 6, 2])
        batch, alone = (
            r.windows(indices, np.random.default_rng(seed), 6, 0.5) for r in (read, plain)
        )
        own = slice(2 * context, 2 * context + 2)
        assert torch.equal(batch.images[:, own], alone.images)
        assert torch.equal(batch.labels, alone.labels)
        for row, index in enumerate(indices):
            pictures = slow_context(two_channels, read, index, context)
            own_picture, found = pictures[2 * context], batch.images[row, 2 * context].numpy()
            places = [
                (top, left)
                for top in range(-6, 13)
                for left in range(-6, 13)
                if np.array_equal(slow_crop(own_picture, 6, top, left), found)
            ]
            assert len(places) == 1
            for channel, picture in enumerate(pictures):
                crop = slow_crop(picture, 6, *places[0])
                np.testing.assert_array_equal(batch.images[row, channel], crop)
