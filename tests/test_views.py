"""Views against slow references, one transform at a time and all together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from poscon.errors import PosconError
from poscon.seeds import stream
from poscon.settings import validate
from poscon.views import (
    View,
    ViewMaker,
    ViewSettings,
    apply_view,
    apply_view_to_labels,
    canvas_size,
    draw_view,
    with_intensity,
)

OFF = ViewSettings(
    mirror=False,
    warp_probability=1,
    rotation=0,
    scale=(1, 1),
    shift=0,
    elastic=0,
    brightness=0,
    contrast=0,
    gamma=0,
    noise=0,
)
GEOMETRY = ViewSettings(
    mirror=True, rotation=180, brightness=0, contrast=0, gamma=0, noise=0, elastic=0.02
)
EVERYTHING = ViewSettings(
    brightness=0.3, contrast=0.4, gamma=0.5, noise=0.2, blur=1.0, low_resolution=2.0
)
INTENSITY = ("gain", "offset", "exponent", "noise", "blur", "low_resolution")


def change(**told) -> ViewSettings:
    return OFF.model_copy(update=told)


def view_of(matrix, n=1) -> View:
    """A view that only moves pixels, by a matrix from view to slice."""
    matrix = torch.tensor(matrix, dtype=torch.float32).expand(n, 2, 3)
    return replace(draw_view(n, OFF, 0), matrix=matrix)


def pictures(n=2, size=12, seed=0) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def smooth_pictures(n=2, size=24) -> torch.Tensor:
    coarse = pictures(n, 5)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")


def rotation(degrees: float) -> list[list[float]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[cos, -sin, 0], [sin, cos, 0]]


def slow_coordinates(view: View, row: int, size: int, canvas: int) -> np.ndarray:
    """Where pixels lie on the canvas, (2, size, size), row before column, in double precision."""
    matrix = view.matrix[row].double().numpy()
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
    assert torch.equal(apply_view(images, view_of([[1, 0, 0], [0, 1, 0]], 2), 16), images)


@pytest.mark.parametrize(("signs", "axes"), [((-1, 1), [3]), ((1, -1), [2]), ((-1, -1), [2, 3])])
def test_a_mirrored_view_is_an_exact_flip(signs, axes):
    images = pictures(size=16)
    view = view_of([[signs[0], 0, 0], [0, signs[1], 0]], 2)
    assert torch.equal(apply_view(images, view, 16), images.flip(axes))


def test_mirrors_are_drawn_for_each_axis_evenly():
    matrix = draw_view(4000, change(mirror=True), 0).matrix
    assert set(matrix[:, 0, 0].tolist()) == set(matrix[:, 1, 1].tolist()) == {-1.0, 1.0}
    for signs in (matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 0] * matrix[:, 1, 1]):
        assert abs(float(signs.mean())) < 0.06


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters):
    images = pictures()
    view = apply_view(images, view_of(rotation(90 * quarters), 2), 12)
    torch.testing.assert_close(view, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_shift_moves_by_whole_pixels():
    """A shift of k pixels is 2 k / size in units of half the view."""
    images = pictures()
    view = apply_view(images, view_of([[1, 0, 2 * 3 / 12], [0, 1, -2 * 1 / 12]], 2), 12)
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
    told = GEOMETRY.model_copy(update={"elastic": 0, "warp_probability": probability, "shift": 0.2})
    view, images = draw_view(3, told, seed), pictures(3, canvas, seed)
    expected = slow_view(torch.nn.functional.pad(images, [1] * 4), view, size)
    np.testing.assert_allclose(apply_view(images, view, size)[:, 0], expected, atol=2e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_elastic_displacement_against_a_slow_reference(seed, points):
    """Control points from corner to corner; what is between follows by cubic interpolation."""
    size, canvas = 13, 20
    told = GEOMETRY.model_copy(update={"elastic": 0.1, "elastic_points": points})
    view, images = draw_view(2, told, seed), smooth_pictures(2, canvas)
    result = apply_view(images, view, size)[:, 0]
    for row in range(2):
        field = torch.nn.functional.interpolate(
            view.displacement[row : row + 1].double(),
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
    view = draw_view(2000, change(elastic=0.05, elastic_points=4), 0)
    assert view.displacement.shape == (2000, 2, 4, 4)
    assert float(view.displacement.std()) == pytest.approx(0.05 * 2, rel=0.02)


@pytest.mark.parametrize(
    "told", [GEOMETRY, GEOMETRY.model_copy(update={"elastic": 0.2, "shift": 0.3})]
)
def test_labels_move_with_the_picture(told):
    """Every class as a picture, one-hot: its view is above one half where the class is."""
    labels = torch.zeros(3, 30, 30, dtype=torch.uint8)
    labels[:, 4:20, 6:14] = 1
    labels[:, 10:27, 12:25] = 2
    view = draw_view(3, told, 5)
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
    told = OFF.model_copy(update={"noise": 1.0, "brightness": 3.0, "gamma": 2.0, "contrast": 2.0})
    assert (apply_view_to_labels(labels, draw_view(2, told, 0), 10) == 3).all()


def test_labels_are_neither_blurred_nor_made_coarser():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (3, 20, 20), generator=generator, dtype=torch.uint8)
    plain = draw_view(3, GEOMETRY, 4)
    told = GEOMETRY.model_copy(update={"blur": 2.0, "low_resolution": 4.0})
    moved = apply_view_to_labels(labels, draw_view(3, told, 4), 14)
    assert torch.equal(moved, apply_view_to_labels(labels, plain, 14))


# The canvas


@pytest.mark.parametrize("size", [8, 16, 31, 96])
@pytest.mark.parametrize("limits", [(180, 0.0), (180, 0.1), (20, 0.1), (0, 0.0), (45, 0.5)])
def test_a_turned_view_has_its_corners(size, limits):
    degrees, shift = limits
    told = change(rotation=degrees, shift=shift, mirror=True)
    canvas = canvas_size(size, told)
    assert canvas % 2 == 0
    assert canvas >= size
    ones = torch.ones(60, 1, canvas, canvas)
    view = draw_view(60, told, size)
    extremes = torch.tensor(rotation(min(degrees, 45)))  # the worst that can be drawn
    extremes[:, 2] = shift * 2
    view.matrix[0] = extremes
    torch.testing.assert_close(apply_view(ones, view, size), torch.ones(60, 1, size, size))


@pytest.mark.parametrize(("degrees", "shift"), [(180, 0.0), (20, 0.1), (0, 0.2)])
def test_the_canvas_is_no_larger_than_it_must_be(degrees, shift):
    told = change(rotation=degrees, shift=shift)
    canvas = canvas_size(64, told) - 6
    matrix = torch.tensor(rotation(min(degrees, 45)))
    matrix[:, 2] = shift * 2
    assert (apply_view(torch.ones(1, 1, canvas, canvas), view_of(matrix.tolist()), 64) == 0).any()


# Intensity


def drawn(**told) -> tuple[torch.Tensor, torch.Tensor, View]:
    images = pictures(6, 16)
    view = draw_view(6, OFF.model_copy(update=told), 0)
    return images, apply_view(images, view, 16), view


def test_intensities_are_untouched_when_off():
    images, views, _ = drawn()
    torch.testing.assert_close(views, images)


def test_brightness_adds():
    images, views, view = drawn(brightness=0.5)
    torch.testing.assert_close(views, images + view.offset[:, None, None, None])
    assert len(set(view.offset.tolist())) == 6
    offsets = draw_view(5000, change(brightness=0.5), 0).offset
    assert float(offsets.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float(offsets.mean())) < 0.03


def test_contrast_multiplies():
    images, views, view = drawn(contrast=0.5)
    torch.testing.assert_close(views, images * view.gain[:, None, None, None])


def test_gamma_bends_between_the_extremes():
    images, views, view = drawn(gamma=1.0)
    for image, bent, exponent in zip(images, views, view.exponent, strict=True):
        low, high = image.min(), image.max()
        expected = ((image - low) / (high - low)) ** exponent * (high - low) + low
        torch.testing.assert_close(bent, expected, rtol=1e-4, atol=1e-4)
        assert float(bent.min()) == pytest.approx(float(low), abs=1e-5)
        assert float(bent.max()) == pytest.approx(float(high), abs=1e-5)
        assert not torch.allclose(bent, image, atol=1e-2)


def test_gamma_of_an_even_slice():
    even = torch.full((1, 1, 8, 8), -0.5)
    view = draw_view(1, change(gamma=1.0), 0)
    torch.testing.assert_close(apply_view(even, view, 8), even)


@pytest.mark.parametrize("name", ["contrast", "gamma"])
def test_factors_go_as_far_up_as_down(name):
    view = draw_view(5000, change(**{name: 0.5}), 0)
    factors = view.gain if name == "contrast" else view.exponent
    assert float(factors.max()) == pytest.approx(1.5, rel=0.01)
    assert float(factors.min()) == pytest.approx(1 / 1.5, rel=0.01)
    assert abs(float(factors.log().mean())) < 0.01


def test_noise_has_the_drawn_strength_in_every_view():
    images = torch.zeros(6, 1, 64, 64)
    view = draw_view(6, change(noise=0.5), 0)
    noise = apply_view(images, view, 64)[:, 0]
    for row in range(6):
        assert float(noise[row].std()) == pytest.approx(float(view.noise[row]), rel=0.1)
    assert 0 <= float(view.noise.min()) < float(view.noise.max()) <= 0.5
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def slow_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian weights of every pixel of the view, which sum to 1 over what is inside."""
    result, size = np.zeros_like(image), len(image)
    for i in range(size):
        for j in range(size):
            total = 0.0
            for k in range(size):
                for m in range(size):
                    weight = math.exp(-((k - i) ** 2 + (m - j) ** 2) / (2 * sigma**2))
                    result[i, j] += weight * image[k, m]
                    total += weight
            result[i, j] /= total
    return result


@pytest.mark.parametrize("size", [5, 12])
def test_blur_against_a_slow_reference(size):
    images = pictures(4, size)
    view = draw_view(4, change(blur=2.0), 1)
    assert len(set(view.blur.tolist())) == 4
    views = apply_view(images, view, size)
    for row in range(4):
        expected = slow_blur(images[row, 0].double().numpy(), float(view.blur[row]))
        np.testing.assert_allclose(views[row, 0], expected, atol=1e-5)


def test_blur_reaches_its_largest_and_nothing():
    blur = draw_view(4000, change(blur=1.5), 0).blur
    assert 0 <= float(blur.min()) < 0.01
    assert 1.49 < float(blur.max()) <= 1.5
    assert float(blur.mean()) == pytest.approx(0.75, rel=0.05)


def slow_coarse(image: np.ndarray, factor: float) -> np.ndarray:
    """Means over n x n larger pixels, by the area that they share, then bilinear between them."""
    size = len(image)
    n = max(round(size / factor), 1)
    width = size / n

    def shared(larger: int, pixel: int) -> float:
        return max(min((larger + 1) * width, pixel + 1) - max(larger * width, pixel), 0) / width

    down = np.array([[shared(k, j) for j in range(size)] for k in range(n)])
    coarse = down @ image @ down.T
    middles = (np.arange(size) + 0.5) / width - 0.5
    lines = [np.interp(middles, np.arange(n), column) for column in coarse.T]
    return np.array([np.interp(middles, np.arange(n), row) for row in np.array(lines).T])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 20), st.sampled_from([1.3, 2.0, 5.0, 100.0]))
def test_low_resolution_against_a_slow_reference(seed, size, factor):
    images = pictures(3, size, seed)
    view = draw_view(3, change(low_resolution=factor), seed)
    views = apply_view(images, view, size)
    for row in range(3):
        expected = slow_coarse(images[row, 0].double().numpy(), float(view.low_resolution[row]))
        np.testing.assert_allclose(views[row, 0], expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_low_resolution_by_a_whole_factor_is_pooling_and_interpolation(factor):
    images = pictures(2, 12)
    view = replace(draw_view(2, OFF, 0), low_resolution=torch.full((2,), float(factor)))
    pooled = torch.nn.functional.avg_pool2d(images, factor)
    expected = torch.nn.functional.interpolate(pooled, size=(12, 12), mode="bilinear")
    torch.testing.assert_close(apply_view(images, view, 12), expected)


def test_resolution_is_drawn_evenly_between_its_lowest_and_full():
    factor = draw_view(4000, change(low_resolution=2.0), 0).low_resolution
    assert 1 <= float(factor.min()) < 1.01
    assert 1.99 < float(factor.max()) <= 2
    assert float((1 / factor).mean()) == pytest.approx(0.75, rel=0.02)


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_blur_and_low_resolution_leave_an_even_slice_and_their_neighbours_alone(name):
    told = change(**{name: 3.0})
    even = torch.full((4, 1, 15, 15), -0.5)
    torch.testing.assert_close(apply_view(even, draw_view(4, told, 0), 15), even)
    images, view = pictures(4, 16), draw_view(4, told, 0)
    getattr(view, name)[2] = 0.0 if name == "blur" else 1.0
    views = apply_view(images, view, 16)
    assert torch.equal(views[2], images[2])  # off in one view: exactly as it was
    assert all((views[row] - images[row]).abs().max() > 0.1 for row in (0, 1, 3))


def test_noise_is_blurred_and_then_made_coarser():
    images = pictures(3, 16)
    view = draw_view(3, change(noise=1.0, blur=1.0, low_resolution=2.0), 0)
    off = draw_view(3, OFF, 0)
    result = images
    for names in (("noise", "noise_seed"), ("blur",), ("low_resolution",)):
        step = replace(off, **{name: getattr(view, name) for name in names})
        result = apply_view(result, step, 16)
    torch.testing.assert_close(apply_view(images, view, 16), result)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.7])
def test_each_intensity_change_is_made_with_its_probability_and_on_its_own(probability):
    told = EVERYTHING.model_copy(update={"intensity_probability": probability})
    view, always = draw_view(6000, told, 0), draw_view(6000, EVERYTHING, 0)
    made = []
    for name in INTENSITY:
        still = 1.0 if name in ("gain", "exponent", "low_resolution") else 0.0
        values, full = getattr(view, name), getattr(always, name)
        assert ((values == full) | (values == still)).all(), name
        made.append((values != still).double())
        assert float(made[-1].mean()) == pytest.approx(probability, abs=0.02), name
    for i in range(len(made)):
        for j in range(i):
            both = float((made[i] * made[j]).mean())
            assert both == pytest.approx(probability**2, abs=0.025)
    assert torch.equal(view.matrix, always.matrix)
    assert torch.equal(view.displacement, always.displacement)


def test_with_a_probability_of_0_intensities_are_untouched():
    told = OFF.model_copy(
        update=dict.fromkeys(("brightness", "contrast", "gamma", "noise", "blur"), 2.0)
        | {"low_resolution": 2.0, "intensity_probability": 0.0}
    )
    images = pictures(6, 16)
    assert torch.equal(
        apply_view(images, draw_view(6, told, 0), 16), apply_view(images, draw_view(6, OFF, 0), 16)
    )


def test_the_geometry_of_one_view_with_the_intensity_of_another():
    one, other = draw_view(3, EVERYTHING, 1), draw_view(3, EVERYTHING, 2)
    mixed = with_intensity(one, other)
    for name in ("matrix", "displacement"):
        assert torch.equal(getattr(mixed, name), getattr(one, name))
        assert not torch.equal(getattr(mixed, name), getattr(other, name))
    for name in INTENSITY:
        assert torch.equal(getattr(mixed, name), getattr(other, name))
        assert not torch.equal(getattr(mixed, name), getattr(one, name))
    assert mixed.noise_seed == other.noise_seed != one.noise_seed
    images = pictures(3, 20)
    moved = apply_view(images, replace(draw_view(3, OFF, 0), **geometry(one)), 16)
    still = replace(other, **geometry(draw_view(3, OFF, 0)))
    torch.testing.assert_close(apply_view(images, mixed, 16), apply_view(moved, still, 16))


def geometry(view: View) -> dict:
    return {"matrix": view.matrix, "displacement": view.displacement}


# Seeds and batches


def test_views_of_earlier_settings_stay_as_they_were():
    """Drawn and applied before blur, low resolution and probabilities of intensity came."""
    view = draw_view(2, ViewSettings(), 0)
    for name, expected in {
        "matrix": [1.0272682905197144, 0.4723028540611267, -0.060442615300416946],
        "displacement": [-0.026634851470589638, 0.03401509299874306, -0.054106149822473526],
        "gain": [0.9539206027984619, 0.9134938716888428],
        "offset": [0.01318263541907072, 0.10197668522596359],
        "exponent": [0.9487110376358032, 1.0043607950210571],
        "noise": [0.04092938452959061, 0.10325244814157486],
    }.items():
        drawn_ = getattr(view, name).flatten()[: len(expected)]
        torch.testing.assert_close(drawn_, torch.tensor(expected), rtol=1e-6, atol=0)
    assert view.noise_seed == 1228579878387276948
    assert not view.blur.any()
    assert (view.low_resolution == 1).all()
    slope = torch.linspace(-1, 1, 20 * 20).reshape(1, 1, 20, 20).expand(2, 1, 20, 20)
    pixels = apply_view(slope, view, 12)[:, 0, 3, 4:7]
    expected = [[-0.15207665, -0.19768453, -0.23502305], [-0.22540551, -0.16648889, -0.11703498]]
    torch.testing.assert_close(pixels, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def same(a: View, b: View) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_a_view_follows_from_its_seed():
    assert same(draw_view(5, EVERYTHING, 7), draw_view(5, EVERYTHING, 7))
    other = draw_view(5, EVERYTHING, 8)
    for a, b in zip(vars(draw_view(5, EVERYTHING, 7)).values(), vars(other).values(), strict=True):
        assert not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)
    images = pictures(5, 20)
    maker = ViewMaker(EVERYTHING, 12)
    assert torch.equal(maker(images, 7), maker(images, 7))
    assert torch.equal(maker(images, 7, view=1), maker(images, 7, view=1))
    assert not torch.equal(maker(images, 7, view=1), maker(images, 7))
    assert not torch.equal(maker(images, 8), maker(images, 7))
    assert same(maker.draw(5, 7, view=1), draw_view(5, EVERYTHING, stream(7, "view", 1)))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    ViewMaker(EVERYTHING, 12)(pictures(5, 20), 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_slices_of_a_batch_differ_in_every_parameter():
    view = draw_view(4, EVERYTHING, 0)
    for name in ("matrix", "displacement", *INTENSITY):
        rows = getattr(view, name)
        assert len({tuple(row.flatten().tolist()) for row in rows}) == 4, name


def test_a_batch_is_its_slices_one_by_one():
    told = EVERYTHING.model_copy(update={"noise": 0.0})  # noise is drawn for the batch
    images, view = pictures(4, 20), draw_view(4, told, 0)
    labels = (images[:, 0] > 0).to(torch.uint8)
    batch, batch_labels = apply_view(images, view, 12), apply_view_to_labels(labels, view, 12)
    for row in range(4):
        parts = {
            name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
            for name, value in vars(view).items()
        }
        alone = View(**parts)
        torch.testing.assert_close(apply_view(images[row : row + 1], alone, 12)[0], batch[row])
        moved = apply_view_to_labels(labels[row : row + 1], alone, 12)
        assert torch.equal(moved[0], batch_labels[row])


def test_what_is_drawn_stays_within_the_settings():
    told = ViewSettings(rotation=30, scale=(0.5, 2.0), shift=0.25, mirror=False, elastic=0)
    matrix = draw_view(4000, told, 0).matrix
    zoom = 1 / torch.linalg.det(matrix[:, :, :2]).sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    shift = matrix[:, :, 2] / 2
    for drawn_, low, high in ((zoom, 0.5, 2), (angle, -30, 30), (shift, -0.25, 0.25)):
        margin = (high - low) / 100
        assert low - 1e-5 <= float(drawn_.min()) <= low + margin
        assert high - margin <= float(drawn_.max()) <= high + 1e-5


def test_views_that_are_not_warped_are_only_shifted_and_mirrored():
    told = ViewSettings(warp_probability=0.3)
    view = draw_view(4000, told, 0)
    plain = (view.matrix[:, :, :2].abs() == torch.eye(2)).all(dim=(1, 2))
    still = (view.displacement == 0).all(dim=(1, 2, 3))
    assert torch.equal(plain, still)
    assert float(plain.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert float(view.matrix[plain][:, :, 2].abs().min(dim=0).values.max()) > 0
    assert draw_view(3, OFF, 0).displacement is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": 181},
        {"rotation": -1},
        {"warp_probability": 1.1},
        {"shift": -0.1},
        {"noise": -1},
        {"blur": -0.1},
        {"low_resolution": 0.5},
        {"intensity_probability": 1.1},
        {"elastic_points": 0},
        {"scale": 1.0},
        {"scale": (0, 1)},
        {"flip": True},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(ViewSettings, wrong)


def test_mixed_precision_does_not_move_pixels():
    """Under autocast, as on a GPU, pixels are still moved and mixed in single precision."""
    images = pictures(size=96)
    told = GEOMETRY.model_copy(update={"blur": 1.0, "low_resolution": 2.0})
    view = draw_view(2, told, 5)
    expected = apply_view(images, view, 64)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(apply_view(images, view, 64), expected)
