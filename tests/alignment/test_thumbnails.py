"""Small pictures of slices show the body, wherever it lies and however bright it is."""

import numpy as np
import pytest

from poscon.alignment.thumbnails import SIDE, thumbnails


def body(rows: slice, columns: slice, size: int = 96) -> np.ndarray:
    """A stack of three slices with an organ in a body, the same wherever the body lies."""
    stack = np.zeros((3, 1, size, size), np.float16)
    stack[:, :, rows, columns] = 1
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    for number in range(3):
        # an organ that lies elsewhere in every slice
        top = rows.start + high * (1 + number) // 6
        left = columns.start + wide // 4
        stack[number, 0, top : top + high // 6, left : left + wide // 4] = 2
    return stack


def test_place_and_size_of_the_body_change_little() -> None:
    one = thumbnails(body(slice(0, 48), slice(0, 48)))
    moved = thumbnails(body(slice(40, 88), slice(30, 78)))
    large = thumbnails(body(slice(10, 106), slice(8, 104), size=120))
    assert one.shape == (3, SIDE * SIDE)
    np.testing.assert_allclose(one, moved, atol=1e-5)
    for a, b in zip(one, large, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.9
    assert np.corrcoef(one[0], one[2])[0, 1] < 0.5


def test_brightness_and_contrast_change_nothing() -> None:
    stack = body(slice(10, 58), slice(20, 68))
    changed = stack * np.array([1, 3, 2], np.float16)[:, None, None, None]
    np.testing.assert_allclose(thumbnails(stack), thumbnails(changed), atol=0.02)


def test_every_channel_has_its_picture_and_a_constant_slice_is_zero() -> None:
    stack = np.concatenate([body(slice(0, 48), slice(0, 48))] * 2, axis=1)
    stack[1] = 0
    found = thumbnails(stack)
    assert found.shape == (3, 2 * SIDE * SIDE)
    assert (found[1] == 0).all()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, : SIDE * SIDE], found[:, SIDE * SIDE :])


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (2, 1, 1, 1), (1, 2, 400, 3)])
def test_any_shape_is_described(shape: tuple[int, ...]) -> None:
    stack = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    found = thumbnails(stack)
    assert found.shape == (shape[0], shape[1] * SIDE * SIDE)
    assert np.isfinite(found).all()
