"""Views as a whole: seeds, batches, labels and settings."""

import pytest
import torch
from view_examples import EVERYTHING, change, pictures, same, without_noise

from poscon.errors import PosconError
from poscon.seeds import stream
from poscon.settings import validate
from poscon.views import (
    View,
    ViewMaker,
    ViewSettings,
    apply_view,
    apply_view_to_labels,
    draw_view,
    with_intensity,
)


def parameters(view: View) -> dict[str, torch.Tensor]:
    return view.geometry | view.intensity


def test_the_geometry_of_one_view_with_the_intensity_of_another():
    one, other = draw_view(8, EVERYTHING, 1), draw_view(8, EVERYTHING, 2)
    mixed = with_intensity(one, other)
    assert mixed.geometry is one.geometry
    assert mixed.intensity is other.intensity
    assert mixed.seed == other.seed != one.seed  # of the noise
    for name, values in parameters(one).items():
        assert not torch.equal(values, parameters(other)[name])
    images = pictures(8, 20)
    moved = apply_view(images, View(one.geometry, {}, 0), 16)
    still = View({}, other.intensity, other.seed)
    torch.testing.assert_close(apply_view(images, mixed, 16), apply_view(moved, still, 16))


def test_views_of_a_seed_stay_as_they_are():
    """The same numbers on every platform and in every version of torch."""
    view = draw_view(2, ViewSettings(mirror=True, blur=1.0, low_resolution=2.0), 0)
    for name, expected in {
        "mirror": [-1.0, -1.0],
        "scale": [1.0381447076797485, 0.9632645845413208],
        "rotation": [0.1191348060965538, -0.14283137023448944],
        "shift": [-0.10217785835266113, -0.03838090971112251],
        "elastic": [-0.005054793786257505, -0.032797571271657944],
        "gamma": [0.7475568056106567, 0.7292681932449341],
        "contrast": [1.0455734729766846, 0.8714082837104797],
        "brightness": [0.209258034825325, 0.02187962643802166],
        "noise": [0.1186598390340805, 0.12294859439134598],
        "blur": [0.36481332778930664, 0.06896549463272095],
        "low_resolution": [1.6755149364471436, 1.0287708044052124],
    }.items():
        drawn = parameters(view)[name].flatten()[:2]
        torch.testing.assert_close(drawn, torch.tensor(expected), rtol=1e-6, atol=0)
    slope = torch.linspace(-1, 1, 20 * 20).reshape(1, 1, 20, 20).expand(2, 1, 20, 20)
    pixels = apply_view(slope, view, 12)[:, 0, 3, 4:7]
    expected = [[0.57481706, 0.60470003, 0.58257985], [0.05042038, -0.35758027, -0.09238582]]
    torch.testing.assert_close(pixels, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_view_follows_from_its_seed():
    assert same(draw_view(5, EVERYTHING, 7), draw_view(5, EVERYTHING, 7))
    other = draw_view(5, EVERYTHING, 8)
    for name, values in parameters(draw_view(5, EVERYTHING, 7)).items():
        assert not torch.equal(values, parameters(other)[name])
    images = pictures(5, 20)
    maker = ViewMaker(EVERYTHING, 12)
    assert torch.equal(maker(images, 7), maker(images, 7))
    assert torch.equal(maker(images, 7, view=1), maker(images, 7, view=1))
    assert not torch.equal(maker(images, 7, view=1), maker(images, 7))
    assert not torch.equal(maker(images, 8), maker(images, 7))
    assert same(maker.draw(5, 7, view=1), draw_view(5, EVERYTHING, stream(7, "view", 1)))


def test_a_maker_draws_for_its_channels():
    maker = ViewMaker(EVERYTHING, 12, channels=3)
    assert same(maker.draw(5, 7), draw_view(5, EVERYTHING, stream(7, "view", 0), channels=3))
    assert maker(pictures(5, 20, channels=6), 7).shape == (5, 6, 12, 12)


def test_labels_move_with_every_channel():
    """Every channel is a class as a picture. Labels take the nearest pixel, pictures do not."""
    labels = (pictures(3, 30)[:, 0] > 0).to(torch.uint8)
    images = torch.stack([(labels == c).float() for c in (0, 1)], dim=1)
    view = draw_view(3, change(mirror=True, rotation=180, shift=0.2), 5)
    views, moved = apply_view(images, view, 16), apply_view_to_labels(labels, view, 16)
    for c in (0, 1):
        assert (moved == c)[views[:, c] > 0.75].all()


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    ViewMaker(EVERYTHING, 12)(pictures(5, 20), 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_slices_of_a_batch_differ_in_every_parameter():
    view = draw_view(4, EVERYTHING, 0)
    assert len(parameters(view)) == 11
    for name, rows in parameters(view).items():
        if name == "mirror":  # two signs
            continue
        assert len({tuple(row.flatten().tolist()) for row in rows}) == 4, name


def test_a_batch_is_its_slices_one_by_one():
    chosen = without_noise(EVERYTHING)  # noise is drawn for the batch
    images, view = pictures(4, 20), draw_view(4, chosen, 0)
    labels = (images[:, 0] > 0).to(torch.uint8)
    batch, batch_labels = apply_view(images, view, 12), apply_view_to_labels(labels, view, 12)
    for row in range(4):
        geometry, intensity = (
            {name: values[row : row + 1] for name, values in part.items()}
            for part in (view.geometry, view.intensity)
        )
        alone = View(geometry, intensity, view.seed)
        torch.testing.assert_close(apply_view(images[row : row + 1], alone, 12)[0], batch[row])
        moved = apply_view_to_labels(labels[row : row + 1], alone, 12)
        assert torch.equal(moved[0], batch_labels[row])


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


def test_other_settings_change_neither_size_nor_channels_nor_the_first_maker() -> None:
    maker = ViewMaker(ViewSettings(noise=0.5), 16, 2)
    plain = maker.with_settings(ViewSettings(intensity_probability=0.0))
    assert (plain.size, plain.channels) == (16, 2)
    assert maker.settings.noise == 0.5
    images = torch.randn(3, 2, 24, 24)
    torch.testing.assert_close(plain(images, 1), ViewMaker(plain.settings, 16, 2)(images, 1))
