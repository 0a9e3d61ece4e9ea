import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.store.resample import (
    resample_classes,
    resample_images,
    resample_probabilities,
    resampled_size,
)
from poscon.volumes.case import IGNORE

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def noise(size, slices=2, seed=0):
    return np.random.default_rng(seed).normal(size=(slices, *size)).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(None, (10, 20)), (2.0, (10, 10)), (1.0, (20, 20)), (4.0, (5, 5)), (10.0, (2, 2))],
)
def test_the_field_of_view_is_kept(target, expected):
    assert resampled_size((10, 20), (2.0, 1.0), target, "a.nii") == expected


@given(SIZES, st.floats(0.7, 1.4), st.floats(0.7, 1.4))
def test_the_spacing_is_met_to_half_a_pixel(size, mm, target):
    for n, m in zip(size, resampled_size(size, (mm, mm), target, "a.nii"), strict=True):
        assert m >= 1
        if m > 1:
            assert abs(m - n * mm / target) <= 0.5 + 1e-9


@pytest.mark.parametrize("target", [1e-3, 1e3])
def test_an_absurd_spacing_is_refused(target):
    with pytest.raises(PosconError, match=r"^a\.nii: .* choose another --spacing"):
        resampled_size((10, 20), (2.0, 1.0), target, "a.nii")


@given(SIZES)
def test_the_same_size_changes_nothing(size):
    stack = noise(size)
    np.testing.assert_array_equal(resample_images(stack, size), stack)
    labels = (stack > 0).astype(np.uint8)
    np.testing.assert_array_equal(resample_classes(labels, size, 2), labels)


@settings(deadline=None)
@given(SIZES, SIZES)
def test_images_do_not_ring(size, target):
    stack = noise(size)
    result = resample_images(stack, target)
    assert result.shape == (2, *target)
    assert result.dtype == np.float32
    assert result.min() >= stack.min() - 1e-5
    assert result.max() <= stack.max() + 1e-5


@settings(deadline=None)
@given(SIZES, SIZES)
@example((2, 1), (3, 1))  # where torch's own repeats the first row
@example((4, 5), (3, 1))
@example((4, 5), (1, 1))
def test_rows_and_columns_are_resampled_alike(size, target):
    stack = noise(size)
    turned = resample_images(stack.transpose(0, 2, 1), target[::-1]).transpose(0, 2, 1)
    np.testing.assert_allclose(resample_images(stack, target), turned, atol=1e-5)


@settings(deadline=None)
@given(SIZES, SIZES, st.floats(-100, 100))
def test_an_even_slice_stays_even(size, target, value):
    result = resample_images(np.full((1, *size), value, np.float32), target)
    np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-4)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 4))
def test_the_mean_is_kept_when_halving(half, factor):
    """Anti-aliased: every pixel has its share, which plain bilinear sampling would not give it."""
    size = 8 * half * factor
    stack = noise((size, size))
    stack[:, : size // 4] = stack[:, -size // 4 :] = 0  # the border counts a little differently
    stack[:, :, : size // 4] = stack[:, :, -size // 4 :] = 0
    small = resample_images(stack, (size // 2, size // 2))
    assert small.mean() == pytest.approx(stack.mean(), abs=1e-6)


def test_shrinking_does_not_alias():
    """A pattern finer than the new pixels turns grey instead of into a coarse pattern."""
    stripes = np.tile([1.0, -1.0], 60)[None, None].repeat(120, axis=1)
    small = resample_images(stripes, (37, 37))
    assert np.abs(small[:, :, 2:-2]).max() < 0.15


def test_slices_stay_where_they_are():
    """The outer edges of a slice stay in place: a ramp stays the same ramp."""
    ramp = np.tile((np.arange(40) + 0.5) / 40, (1, 40, 1))
    for size in (20, 10, 80, 27):
        middle = resample_images(ramp, (40, size))[0, 0]
        inner = slice(size // 8 + 1, -size // 8 - 1)
        np.testing.assert_allclose(
            middle[inner], ((np.arange(size) + 0.5) / size)[inner], atol=2e-3
        )


def test_there_and_back_finer_is_close():
    stack = np.cos(np.arange(20) / 3)[None, :, None] * np.sin(np.arange(24) / 4)[None, None]
    back = resample_images(resample_images(stack, (60, 72)), (20, 24))
    np.testing.assert_allclose(back[:, 2:-2, 2:-2], stack[:, 2:-2, 2:-2], atol=0.05)


def test_slices_do_not_mix():
    stack = noise((9, 9), slices=3)
    changed = stack.copy()
    changed[1] += 5
    before, after = resample_images(stack, (6, 13)), resample_images(changed, (6, 13))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).all()


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 6), st.integers(0, 1000))
def test_labels_take_no_value_that_was_not_there(size, target, n_classes, seed):
    labels = np.random.default_rng(seed).choice([0, n_classes - 1], (2, *size)).astype(np.uint8)
    result = resample_classes(labels, target, n_classes)
    assert result.shape == (2, *target)
    assert result.dtype == np.uint8
    for here, there in zip(result, labels, strict=True):
        assert set(np.unique(here)) <= set(np.unique(there))


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 5), st.floats(0, 1), st.integers(0, 1000))
@example((2, 1), (3, 1), 2, 1.0, 0)
def test_the_class_with_the_largest_soft_mask_wins(size, target, n_classes, filled, seed):
    """Against every class's mask, the background's too, resampled whole."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_classes, (2, *size))
    kept = (random.random((2, 1, 1)) < filled) & (np.arange(size[0])[:, None] < filled * size[0])
    labels = np.where(kept, labels, 0).astype(np.uint8)  # of some slices and rows nothing is left
    masks = np.stack([resample_images(labels == index, target) for index in range(n_classes)])
    result = resample_classes(labels, target, n_classes)
    of_result = np.take_along_axis(masks, result[None].astype(int), 0)[0]
    np.testing.assert_allclose(of_result, masks.max(0), atol=1e-4)


@pytest.mark.parametrize("size", [(5, 9), (13, 7), (40, 30)])
def test_what_is_not_labelled_is_a_value_like_a_class(size):
    generator = np.random.default_rng(3)
    stack = generator.choice(np.array([0, 1, 2, IGNORE], np.uint8), (4, 20, 17))
    stack[2] = IGNORE
    found = resample_classes(stack, size, 3)
    as_class = resample_classes(np.where(stack == IGNORE, 3, stack), size, 4)
    np.testing.assert_array_equal(found, np.where(as_class == 3, IGNORE, as_class))
    assert (found[2] == IGNORE).all()
    assert (found[[0, 1, 3]] != IGNORE).any()


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_of_equal_classes_the_first_wins(pair):
    """Two halves on three columns: the one in the middle is half of each."""
    labels = np.repeat(pair, 2).astype(np.uint8) + np.zeros((1, 4, 4), np.uint8)
    result = resample_classes(labels, (4, 3), 3)
    assert (result == [pair[0], min(pair), pair[1]]).all()


@pytest.mark.parametrize("size", [(10, 10), (45, 30)])
def test_between_two_classes_no_third_arises(size):
    """1 borders on 3: averaging indices would put 2 between them."""
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[:, :10], labels[:, 10:] = 1, 3
    result = resample_classes(labels, size, 4)
    assert set(np.unique(result)) == {1, 3}
    assert (result == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_labels_lie_where_their_picture_does():
    rows, columns = np.mgrid[:32, :32]
    disc = ((rows - 12) ** 2 + (columns - 18) ** 2 < 64)[None]
    for size in ((16, 16), (50, 40)):
        soft = resample_images(disc.astype(np.float32), size)
        hard = resample_classes(disc.astype(np.uint8), size, 2)
        assert (hard[soft > 0.51] == 1).all()
        assert (hard[soft < 0.49] == 0).all()


def test_probabilities_are_resampled_like_images():
    scores = torch.from_numpy(noise((8, 6), slices=6)).reshape(3, 2, 8, 6)
    result = resample_probabilities(scores, (5, 9))
    expected = resample_images(scores.reshape(6, 8, 6).numpy(), (5, 9))
    np.testing.assert_allclose(result.reshape(6, 5, 9).numpy(), expected, atol=1e-6)
    assert resample_probabilities(scores, (8, 6)) is scores
    sums = resample_probabilities(scores.softmax(1), (5, 9)).sum(1)
    torch.testing.assert_close(sums, torch.ones(3, 5, 9))


def test_a_single_column_of_a_flipped_stack_is_resampled() -> None:
    stack = np.zeros((3, 8, 6), np.uint8)
    stack[1, 2:6, 3] = 1
    flipped = stack[:, :, ::-1]
    expected = resample_classes(np.ascontiguousarray(flipped), (8, 7), 2)
    np.testing.assert_array_equal(resample_classes(flipped, (8, 7), 2), expected)
    assert expected.any()


def test_a_few_slices_at_a_time_give_the_same(monkeypatch):
    generator = np.random.default_rng(4)
    stack = generator.choice(np.array([0, 0, 1, 2, IGNORE], np.uint8), (5, 12, 11))
    stack[2] = 0
    whole = resample_classes(stack, (17, 8), 3)
    monkeypatch.setattr("poscon.volumes.slabs.SLAB_VOXELS", 1)
    np.testing.assert_array_equal(resample_classes(stack, (17, 8), 3), whole)
