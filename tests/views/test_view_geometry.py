"""The geometry of views against slow references, one transform at a time and all together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from view_examples import GEOMETRY, OFF, change, pictures

from poscon.views import (
    View,
    ViewSettings,
    apply_view,
    apply_view_to_labels,
    canvas_size,
    draw_view,
)
from poscon.views.geometry import AFFINE
from poscon.views.geometry import GEOMETRY as TRANSFORMS


def view_of(n=1, **geometry) -> View:
    """Views that only move pixels, all of them by the same parameters."""
    rows = {name: torch.tensor([values] * n) for name, values in geometry.items()}
    return View({name: values.float() for name, values in rows.items()}, {}, 0)


def smooth_pictures(n=2, size=24) -> torch.Tensor:
    coarse = pictures(n, 5)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")


def slow_matrix(view: View, row: int) -> np.ndarray:
    """From the view to the slice: mirror, zoom, rotate, shift; (3, 3) in double precision."""
    values = {name: drawn[row].double().numpy() for name, drawn in view.geometry.items()}
    mirror = np.diag([*values.get("mirror", (1, 1)), 1])
    scale = np.diag([1 / values.get("scale", 1), 1 / values.get("scale", 1), 1])
    angle = values.get("rotation", 0)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.eye(3)
    shift[:2, 2] = values.get("shift", (0, 0))
    return shift @ rotation @ scale @ mirror


def slow_coordinates(view: View, row: int, size: int, canvas: int) -> np.ndarray:
    """Where pixels lie on the canvas, (2, size, size), row before column, in double precision."""
    matrix = slow_matrix(view, row)[:2]
    result = np.zeros((2, size, size))
    for i in range(size):
        for j in range(size):
            x, y = (2 * j + 1) / size - 1, (2 * i + 1) / size - 1
            moved = matrix @ [x, y, 1]
            # half the view's extent is the unit, the middle of the canvas the origin
            result[:, i, j] = moved[::-1] * size / 2 + canvas / 2 - 0.5
    return result


def slow_view(images: torch.Tensor, view: View, size: int, *, order=1) -> np.ndarray:
    rows = []
    for row, image in enumerate(images.double().numpy()):
        where = slow_coordinates(view, row, size, image.shape[-1])
        rows.append(map_coordinates(image[0], where, order=order, mode="constant", cval=0.0))
    return np.stack(rows)


# Geometry


@pytest.mark.parametrize(("size", "canvas"), [(12, 12), (8, 12), (12, 8)])
def test_a_view_that_does_nothing_is_the_middle_of_the_slice(size, canvas):
    images = pictures(size=canvas)
    view = apply_view(images, draw_view(2, OFF, 3), size)
    assert view.shape == (2, 1, size, size)
    margin = (canvas - size) // 2
    expected = torch.nn.functional.pad(images, [-margin] * 4)
    torch.testing.assert_close(view, expected, rtol=1e-5, atol=1e-5)


def test_a_view_at_native_size_and_identity_is_exact():
    images = pictures(size=16)
    assert torch.equal(apply_view(images, view_of(2), 16), images)


@pytest.mark.parametrize(("signs", "axes"), [((-1, 1), [3]), ((1, -1), [2]), ((-1, -1), [2, 3])])
def test_a_mirrored_view_is_an_exact_flip(signs, axes):
    images = pictures(size=16)
    view = view_of(2, mirror=signs)
    assert torch.equal(apply_view(images, view, 16), images.flip(axes))


def test_mirrors_are_drawn_for_each_axis_evenly():
    x, y = draw_view(4000, change(mirror=True), 0).geometry["mirror"].unbind(1)
    assert set(x.tolist()) == set(y.tolist()) == {-1.0, 1.0}
    for signs in (x, y, x * y):
        assert abs(float(signs.mean())) < 0.06


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters):
    images = pictures()
    view = apply_view(images, view_of(2, rotation=math.radians(90 * quarters)), 12)
    torch.testing.assert_close(view, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_shift_moves_by_whole_pixels():
    """A shift of k pixels is 2 k / size in units of half the view."""
    images = pictures()
    view = apply_view(images, view_of(2, shift=(2 * 3 / 12, -2 * 1 / 12)), 12)
    torch.testing.assert_close(view[:, :, 1:, :-3], images[:, :, :-1, 3:], rtol=0, atol=1e-5)
    assert not view[:, :, 0].any()
    assert not view[..., -3:].any()


def test_zoom_makes_larger():
    """At a zoom of 2 a view of 4 pixels shows the middle 2 of the slice."""
    images = torch.zeros(1, 1, 8, 8)
    images[..., 3:5, 3:5] = 1
    zoomed = apply_view(images, draw_view(1, change(scale=(2, 2)), 0), 4)
    assert float(zoomed.sum()) > 4 * 2
    plain = apply_view(images, draw_view(1, OFF, 0), 4)
    assert float(plain.sum()) == pytest.approx(4)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10**6), st.integers(3, 14), st.integers(3, 24), st.sampled_from([0.0, 0.5, 1.0])
)
def test_the_warp_against_a_slow_reference(seed, size, canvas, probability):
    chosen = GEOMETRY.model_copy(
        update={"elastic": 0, "warp_probability": probability, "shift": 0.2}
    )
    view, images = draw_view(3, chosen, seed), pictures(3, canvas, seed)
    expected = slow_view(torch.nn.functional.pad(images, [1] * 4), view, size)
    np.testing.assert_allclose(apply_view(images, view, size)[:, 0], expected, atol=2e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_elastic_displacement_against_a_slow_reference(seed, points):
    """Control points from corner to corner; what is between follows by cubic interpolation."""
    size, canvas = 13, 20
    chosen = GEOMETRY.model_copy(update={"elastic": 0.1, "elastic_points": points})
    view, images = draw_view(2, chosen, seed), smooth_pictures(2, canvas)
    result = apply_view(images, view, size)[:, 0]
    for row in range(2):
        field = torch.nn.functional.interpolate(
            view.geometry["elastic"][row : row + 1].double(),
            size=(size, size),
            mode="bicubic",
            align_corners=True,
        )[0].numpy()
        where = slow_coordinates(view, row, size, canvas) + field[::-1] * size / 2
        padded = np.pad(images[row, 0].double().numpy(), 1)
        expected = map_coordinates(padded, where + 1, order=1, mode="constant")
        np.testing.assert_allclose(result[row], expected, atol=1e-4)


def test_elastic_displacement_has_the_stated_size():
    """In units of half the view, so twice a fraction of its extent."""
    field = draw_view(2000, change(elastic=0.05, elastic_points=4), 0).geometry["elastic"]
    assert field.shape == (2000, 2, 4, 4)
    assert float(field.std()) == pytest.approx(0.05 * 2, rel=0.02)


@pytest.mark.parametrize(
    "chosen", [GEOMETRY, GEOMETRY.model_copy(update={"elastic": 0.2, "shift": 0.3})]
)
def test_labels_move_with_the_picture(chosen):
    """Every class as a picture, one-hot: its view is above one half where the class is."""
    labels = torch.zeros(3, 30, 30, dtype=torch.uint8)
    labels[:, 4:20, 6:14] = 1
    labels[:, 10:27, 12:25] = 2
    view = draw_view(3, chosen, 5)
    moved = apply_view_to_labels(labels, view, 22)
    assert moved.shape == (3, 22, 22)
    assert moved.dtype == torch.int64
    soft = [apply_view((labels == c)[:, None].float(), view, 22)[:, 0] for c in range(3)]
    for c in range(3):
        assert not ((soft[c] > 0.999) & (moved != c)).any()
    outside = 1 - sum(soft) > 0.999
    assert not moved[outside].any()
    sure = torch.stack(soft).amax(0) > 0.75
    assert (moved == torch.stack(soft).argmax(0))[sure].float().mean() > 0.98


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_labels_take_the_nearest_pixel(seed):
    """Exactly what a one-hot picture gives with the nearest pixel instead of interpolation."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (2, 20, 20), generator=generator, dtype=torch.uint8)
    view = draw_view(2, ViewSettings(elastic=0), seed)
    moved = apply_view_to_labels(labels, view, 14)
    expected = slow_view(torch.nn.functional.pad(labels[:, None], [4] * 4), view, 14, order=0)
    assert (moved.numpy() == expected).mean() > 0.99  # a tie may go either way


def test_labels_have_no_noise():
    labels = torch.full((2, 20, 20), 3, dtype=torch.uint8)
    chosen = OFF.model_copy(update={"noise": 1.0, "brightness": 3.0, "gamma": 2.0, "contrast": 2.0})
    assert (apply_view_to_labels(labels, draw_view(2, chosen, 0), 10) == 3).all()


def test_labels_are_neither_blurred_nor_made_coarser():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (3, 20, 20), generator=generator, dtype=torch.uint8)
    plain = draw_view(3, GEOMETRY, 4)
    chosen = GEOMETRY.model_copy(update={"blur": 2.0, "low_resolution": 4.0})
    moved = apply_view_to_labels(labels, draw_view(3, chosen, 4), 14)
    assert torch.equal(moved, apply_view_to_labels(labels, plain, 14))


# The canvas


@pytest.mark.parametrize("size", [8, 16, 31, 96])
@pytest.mark.parametrize("limits", [(180, 0.0), (180, 0.1), (20, 0.1), (0, 0.0), (45, 0.5)])
def test_a_turned_view_has_its_corners(size, limits):
    degrees, shift = limits
    chosen = change(rotation=degrees, shift=shift, mirror=True)
    canvas = canvas_size(size, chosen)
    assert canvas % 2 == 0
    assert canvas >= size
    ones = torch.ones(60, 1, canvas, canvas)
    view = draw_view(60, chosen, size)
    worst = {"rotation": math.radians(min(degrees, 45)), "shift": shift * 2}
    for name in worst.keys() & view.geometry.keys():
        view.geometry[name][0] = worst[name]
    torch.testing.assert_close(apply_view(ones, view, size), torch.ones(60, 1, size, size))


@pytest.mark.parametrize(("degrees", "shift"), [(180, 0.0), (20, 0.1), (0, 0.2)])
def test_the_canvas_is_no_larger_than_it_must_be(degrees, shift):
    chosen = change(rotation=degrees, shift=shift)
    canvas = canvas_size(64, chosen) - 6
    worst = view_of(rotation=math.radians(min(degrees, 45)), shift=(shift * 2, shift * 2))
    assert (apply_view(torch.ones(1, 1, canvas, canvas), worst, 64) == 0).any()


def test_what_is_drawn_stays_within_the_settings():
    chosen = ViewSettings(rotation=30, scale=(0.5, 2.0), shift=0.25, mirror=False, elastic=0)
    drawn = draw_view(4000, chosen, 0).geometry
    assert drawn.keys() == {"scale", "rotation", "shift"}
    zoom, angle, shift = drawn["scale"], drawn["rotation"].rad2deg(), drawn["shift"] / 2
    for values, low, high in ((zoom, 0.5, 2), (angle, -30, 30), (shift, -0.25, 0.25)):
        margin = (high - low) / 100
        assert low - 1e-5 <= float(values.min()) <= low + margin
        assert high - margin <= float(values.max()) <= high + 1e-5


def test_views_that_are_not_warped_are_only_shifted_and_mirrored():
    drawn = draw_view(4000, ViewSettings(warp_probability=0.3, mirror=True), 0).geometry
    plain = drawn["rotation"] == 0
    assert torch.equal(plain, drawn["scale"] == 1)
    assert torch.equal(plain, (drawn["elastic"] == 0).all(dim=(1, 2, 3)))
    assert float(plain.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert bool((drawn["shift"][plain] != 0).all())
    assert set(drawn["mirror"][plain].flatten().tolist()) == {-1.0, 1.0}


def test_what_is_off_is_not_drawn():
    assert draw_view(3, OFF, 0).geometry == {}
    unwarped = draw_view(3, GEOMETRY.model_copy(update={"warp_probability": 0}), 0)
    assert unwarped.geometry.keys() == {"mirror", "shift"}
    assert draw_view(3, GEOMETRY, 0).geometry.keys() == TRANSFORMS.keys()


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_draws_the_same_whatever_else_is_on(name, n):
    everything = draw_view(n, GEOMETRY, 3).geometry
    off = {name: getattr(OFF, name)}
    others = draw_view(n, GEOMETRY.model_copy(update=off), 3).geometry
    assert others.keys() == everything.keys() - {name}
    assert all(torch.equal(others[other], everything[other]) for other in others)
    alone = draw_view(n, change(**{name: getattr(GEOMETRY, name)}), 3).geometry
    assert alone.keys() == everything.keys() & {name}
    assert all(torch.equal(alone[name], everything[name]) for name in alone)


def test_the_probability_of_warps_changes_no_parameter_of_those_that_are_warped():
    always = draw_view(50, GEOMETRY, 3).geometry
    half = draw_view(50, GEOMETRY.model_copy(update={"warp_probability": 0.5}), 3).geometry
    warped = half["rotation"] != 0
    assert 10 < int(warped.sum()) < 40
    for name, transform in TRANSFORMS.items():
        rows = warped if transform.only_warped else torch.ones(50, dtype=torch.bool)
        assert torch.equal(half[name][rows], always[name][rows])


@pytest.mark.parametrize("name", AFFINE)
def test_the_neutral_parameter_moves_nothing(name):
    """One view is changed and the other is not."""
    drawn = draw_view(2, change(**{name: getattr(GEOMETRY, name)}), 5).geometry
    drawn[name][0] = AFFINE[name].neutral
    images = pictures(2, 16)
    assert torch.equal(apply_view(images, View(drawn, {}, 0), 16)[0], images[0])


def test_mixed_precision_does_not_move_pixels():
    """Under autocast, as on a GPU, pixels are still moved and mixed in single precision."""
    images = pictures(size=96)
    chosen = GEOMETRY.model_copy(update={"blur": 1.0, "low_resolution": 2.0})
    view = draw_view(2, chosen, 5)
    expected = apply_view(images, view, 64)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(apply_view(images, view, 64), expected)
