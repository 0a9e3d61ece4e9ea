"""Changes of intensity against slow references, one at a time and all together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from view_examples import (
    EVERYTHING,
    GEOMETRY,
    OFF,
    change,
    pictures,
    same_parameters,
    without_noise,
)

from poscon.views import View, ViewMaker, ViewSettings, apply_view, draw_view
from poscon.views.intensity import INTENSITY, IntensityTransform


def strength(view: View, name: str) -> torch.Tensor:
    """(B,), the parameters of the only channel."""
    return view.intensity[name][:, 0]


def drawn(**chosen) -> tuple[torch.Tensor, torch.Tensor, View]:
    images = pictures(6, 16)
    view = draw_view(6, change(**chosen), 0)
    return images, apply_view(images, view, 16), view


def test_intensities_are_untouched_when_off():
    images, views, _ = drawn()
    torch.testing.assert_close(views, images)


def test_brightness_adds():
    images, views, view = drawn(brightness=0.5)
    offset = strength(view, "brightness")
    torch.testing.assert_close(views, images + offset[:, None, None, None])
    assert len(set(offset.tolist())) == 6
    offsets = strength(draw_view(5000, change(brightness=0.5), 0), "brightness")
    assert float(offsets.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float(offsets.mean())) < 0.03


def test_contrast_multiplies():
    images, views, view = drawn(contrast=0.5)
    torch.testing.assert_close(views, images * strength(view, "contrast")[:, None, None, None])


def test_gamma_bends_between_the_extremes():
    images, views, view = drawn(gamma=1.0)
    for image, bent, exponent in zip(images, views, strength(view, "gamma"), strict=True):
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
    factors = strength(draw_view(5000, change(**{name: 0.5}), 0), name)
    assert float(factors.max()) == pytest.approx(1.5, rel=0.01)
    assert float(factors.min()) == pytest.approx(1 / 1.5, rel=0.01)
    assert abs(float(factors.log().mean())) < 0.01


def test_noise_has_the_drawn_strength_in_every_view():
    images = torch.zeros(6, 1, 64, 64)
    view = draw_view(6, change(noise=0.5), 0)
    noise, expected = apply_view(images, view, 64)[:, 0], strength(view, "noise")
    for row in range(6):
        assert float(noise[row].std()) == pytest.approx(float(expected[row]), rel=0.1)
    assert 0 <= float(expected.min()) < float(expected.max()) <= 0.5
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
    assert len(set(strength(view, "blur").tolist())) == 4
    views = apply_view(images, view, size)
    for row in range(4):
        expected = slow_blur(images[row, 0].double().numpy(), float(strength(view, "blur")[row]))
        np.testing.assert_allclose(views[row, 0], expected, atol=1e-5)


def test_blur_reaches_its_largest_and_nothing():
    blur = strength(draw_view(4000, change(blur=1.5), 0), "blur")
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
        expected = slow_coarse(
            images[row, 0].double().numpy(), float(strength(view, "low_resolution")[row])
        )
        np.testing.assert_allclose(views[row, 0], expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_low_resolution_by_a_whole_factor_is_pooling_and_interpolation(factor):
    images = pictures(2, 12)
    view = View({}, {"low_resolution": torch.full((2, 1), float(factor))}, 0)
    pooled = torch.nn.functional.avg_pool2d(images, factor)
    expected = torch.nn.functional.interpolate(pooled, size=(12, 12), mode="bilinear")
    torch.testing.assert_close(apply_view(images, view, 12), expected)


def test_resolution_is_drawn_evenly_between_its_lowest_and_full():
    factor = strength(draw_view(4000, change(low_resolution=2.0), 0), "low_resolution")
    assert 1 <= float(factor.min()) < 1.01
    assert 1.99 < float(factor.max()) <= 2
    assert float((1 / factor).mean()) == pytest.approx(0.75, rel=0.02)


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_blur_and_low_resolution_leave_an_even_slice_and_their_neighbours_alone(name):
    chosen = change(**{name: 3.0})
    even = torch.full((4, 1, 15, 15), -0.5)
    torch.testing.assert_close(apply_view(even, draw_view(4, chosen, 0), 15), even)
    images, values = pictures(4, 16), torch.full((4, 1), 2.0)
    values[2] = INTENSITY[name].neutral
    views = apply_view(images, View({}, {name: values}, 0), 16)
    assert torch.equal(views[2], images[2])  # off in one view: exactly as it was
    assert all((views[row] - images[row]).abs().max() > 0.1 for row in (0, 1, 3))


def test_noise_is_blurred_and_then_made_coarser():
    images = pictures(3, 16)
    view = draw_view(3, change(noise=1.0, blur=1.0, low_resolution=2.0), 0)
    result = images
    for name in ("noise", "blur", "low_resolution"):
        result = apply_view(result, View({}, {name: view.intensity[name]}, view.seed), 16)
    torch.testing.assert_close(apply_view(images, view, 16), result)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.7])
def test_each_intensity_change_is_made_with_its_probability_and_on_its_own(probability):
    chosen = EVERYTHING.model_copy(update={"intensity_probability": probability})
    view, always = draw_view(6000, chosen, 0), draw_view(6000, EVERYTHING, 0)
    made = []
    for name, transform in INTENSITY.items():
        full = always.intensity[name]
        values = view.intensity.get(name, torch.full_like(full, transform.neutral))
        assert ((values == full) | (values == transform.neutral)).all(), name
        made.append((values != transform.neutral).double())
        assert float(made[-1].mean()) == pytest.approx(probability, abs=0.02), name
    for i in range(len(made)):
        for j in range(i):
            both = float((made[i] * made[j]).mean())
            assert both == pytest.approx(probability**2, abs=0.025)
    assert same_parameters(view.geometry, always.geometry)


def test_with_a_probability_of_0_intensities_are_untouched():
    chosen = OFF.model_copy(
        update=dict.fromkeys(("brightness", "contrast", "gamma", "noise", "blur"), 2.0)
        | {"low_resolution": 2.0, "intensity_probability": 0.0}
    )
    images = pictures(6, 16)
    assert draw_view(6, chosen, 0).intensity == {}
    assert torch.equal(
        apply_view(images, draw_view(6, chosen, 0), 16),
        apply_view(images, draw_view(6, OFF, 0), 16),
    )


# Each change by itself


def test_what_is_off_is_not_drawn():
    assert draw_view(3, OFF, 0).intensity == {}
    assert draw_view(3, GEOMETRY, 0).intensity == {}
    assert draw_view(3, EVERYTHING, 0).intensity.keys() == INTENSITY.keys()


@pytest.mark.parametrize("probability", [1.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", INTENSITY)
def test_a_change_draws_the_same_whatever_else_is_on(name, channels, probability):
    chosen = EVERYTHING.model_copy(update={"intensity_probability": probability})
    everything = draw_view(20, chosen, 3, channels)
    assert everything.intensity.keys() == INTENSITY.keys()
    off = {name: getattr(OFF, name)}
    others = draw_view(20, chosen.model_copy(update=off), 3, channels)
    remaining = {n: values for n, values in everything.intensity.items() if n != name}
    assert same_parameters(others.intensity, remaining)
    assert same_parameters(others.geometry, everything.geometry)
    on = {name: getattr(chosen, name), "intensity_probability": probability}
    alone = draw_view(20, change(**on), 3, channels)
    assert same_parameters(alone.intensity, {name: everything.intensity[name]})


def test_geometry_changes_no_intensity():
    still = {name: getattr(OFF, name) for name in draw_view(3, GEOMETRY, 0).geometry}
    one = draw_view(3, EVERYTHING, 4)
    other = draw_view(3, EVERYTHING.model_copy(update=still), 4)
    assert other.geometry == {}
    assert same_parameters(one.intensity, other.intensity)


class Inversion(IntensityTransform):
    """x becomes -x."""

    off, neutral = False, 1.0

    def draw(self, n: int, settings: ViewSettings, generator: torch.Generator) -> torch.Tensor:
        return torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)

    def apply(self, images: torch.Tensor, values: torch.Tensor, seed: int) -> torch.Tensor:
        return images.mul_(values)


class MoreSettings(ViewSettings):
    inversion: bool = True


def test_a_new_change_in_the_middle_changes_no_other(monkeypatch):
    before = draw_view(6, EVERYTHING, 3)
    extended = {}
    for name, transform in INTENSITY.items():
        extended[name] = transform
        if name == "contrast":
            extended["inversion"] = Inversion()
    monkeypatch.setattr("poscon.views.intensity.INTENSITY", extended)
    after = draw_view(6, MoreSettings(**EVERYTHING.model_dump()), 3)
    assert set(strength(after, "inversion").tolist()) == {-1.0, 1.0}
    remaining = {name: v for name, v in after.intensity.items() if name != "inversion"}
    assert same_parameters(remaining, before.intensity)
    assert same_parameters(after.geometry, before.geometry)
    images, alone = pictures(6, 16), {"inversion": after.intensity["inversion"]}
    inverted = apply_view(images, View({}, alone, 0), 16)
    assert torch.equal(inverted, images * strength(after, "inversion")[:, None, None, None])


def test_what_changes_no_view_is_not_applied(monkeypatch):
    """Also where it is on, but was made in none of the views."""

    def never(*_):
        raise AssertionError

    for transform in INTENSITY.values():
        monkeypatch.setattr(type(transform), "apply", never)
    images = pictures(2, 16)
    rarely = EVERYTHING.model_copy(update={"intensity_probability": 1e-9})
    for chosen in (OFF, rarely):
        ViewMaker(chosen, 16)(images, 0)
    with pytest.raises(AssertionError):
        ViewMaker(EVERYTHING, 16)(images, 0)


@pytest.mark.parametrize("name", INTENSITY)
def test_slices_are_not_overwritten(name):
    images = pictures(3, 16)
    before = images.clone()
    apply_view(images, draw_view(3, change(**{name: 2.0}), 0), 16)
    assert torch.equal(images, before)


# Image channels and neighbouring slices


@pytest.mark.parametrize("neighbours", [1, 3])
def test_channels_are_changed_as_batches_of_one_channel(neighbours):
    chosen, images = without_noise(EVERYTHING), pictures(4, 20, channels=2 * neighbours)
    view = draw_view(4, chosen, 0, channels=2)
    views = apply_view(images, view, 16)
    assert views.shape == (4, 2 * neighbours, 16, 16)
    for channel in range(2):
        column = {n: values[:, channel : channel + 1] for n, values in view.intensity.items()}
        alone = apply_view(images[:, channel::2], View(view.geometry, column, view.seed), 16)
        torch.testing.assert_close(views[:, channel::2], alone)


def test_channels_have_parameters_of_their_own():
    two, one = draw_view(5, EVERYTHING, 0, channels=2), draw_view(5, EVERYTHING, 0)
    assert same_parameters(two.geometry, one.geometry)
    for name in INTENSITY:
        assert two.intensity[name].shape == (5, 2)
        assert torch.equal(two.intensity[name][:, :1], one.intensity[name])
        assert not bool((two.intensity[name][:, 0] == two.intensity[name][:, 1]).any())


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_a_constant_in_one_channel_changes_no_other(neighbours, channel):
    maker, images = ViewMaker(EVERYTHING, 16, channels=2), pictures(4, 20, channels=2 * neighbours)
    scaled = images.clone()
    scaled[:, channel::2] *= 100
    one, other = maker(images, 3), maker(scaled, 3)
    assert torch.equal(one[:, 1 - channel :: 2], other[:, 1 - channel :: 2])
    assert not torch.allclose(one[:, channel::2], other[:, channel::2])


@pytest.mark.parametrize("name", ["gamma", "contrast", "brightness", "blur", "low_resolution"])
def test_neighbouring_slices_share_their_parameters(name):
    """The same slice three times gives the same view three times."""
    images = pictures(4, 16, channels=2).repeat(1, 3, 1, 1)
    first, second, third = ViewMaker(change(**{name: 2.0}), 16, 2)(images, 0).chunk(3, dim=1)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_noise_is_independent_in_every_channel_and_slice():
    view = View({}, {"noise": torch.ones(2, 2)}, 0)
    noise = apply_view(torch.zeros(2, 6, 64, 64), view, 64).flatten(0, 1).flatten(1)
    correlations = np.corrcoef(noise.numpy())
    assert np.abs(correlations - np.eye(12)).max() < 0.08


def slow_intensity(image: np.ndarray, view: View, row: int, channels: int) -> np.ndarray:
    """All changes but noise of one view (k * C, size, size), in double precision."""
    result = np.empty_like(image)
    for c in range(channels):
        gamma, contrast, brightness, blur, low_resolution = (
            float(view.intensity[name][row, c])
            for name in ("gamma", "contrast", "brightness", "blur", "low_resolution")
        )
        slices = image[c::channels]
        low, high = slices.min(), slices.max()  # over the neighbouring slices
        for j in range(len(slices)):
            x = low + (high - low) * ((slices[j] - low) / (high - low)) ** gamma
            x = slow_blur(x * contrast + brightness, max(blur, 1e-3))
            result[j * channels + c] = slow_coarse(x, low_resolution)
    return result


@pytest.mark.parametrize(("neighbours", "channels"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_all_changes_against_a_slow_reference(neighbours, channels):
    chosen = without_noise(EVERYTHING).model_copy(update={"intensity_probability": 0.8})
    images = pictures(3, 12, channels=neighbours * channels)
    drawn_ = draw_view(3, chosen, 1, channels)
    views = apply_view(images, View({}, drawn_.intensity, 0), 12)
    for row, image in enumerate(images.double().numpy()):
        expected = slow_intensity(image, drawn_, row, channels)
        np.testing.assert_allclose(views[row], expected, atol=2e-5)
