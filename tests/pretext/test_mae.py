"""MAE: masks and loss against slow references, and what the network can see and is asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext.mae import (
    MaskedAutoencoder,
    hidden_patches,
    masked_error,
    masked_views,
    spread,
)
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def slow_error(prediction, target, hidden) -> torch.Tensor:
    """The mean squared error over hidden pixels, pixel by pixel in double precision."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for index in np.ndindex(*hidden.shape):
        if hidden[index]:
            total = total + (prediction[index].double() - target[index].double()) ** 2
            count += 1
    return total / count


def random_images(n=2, size=6, seed=0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64).to(dtype)


def random_mask(n=2, size=6, seed=0) -> torch.Tensor:
    mask = random_images(n, size, seed + 100) > 0
    mask[0, 0, 0, 0] = True
    return mask


# The loss


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 1000))
def test_loss_and_gradient_against_a_slow_reference(n, size, seed):
    prediction, target = random_images(n, size, seed), random_images(n, size, seed + 1)
    hidden = random_mask(n, size, seed)
    fast, slow = prediction.clone().requires_grad_(), prediction.clone().requires_grad_()
    loss, expected = masked_error(fast, target, hidden), slow_error(slow, target, hidden)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_visible_pixels_have_no_loss():
    prediction, target = random_images(seed=1), random_images(seed=2)
    hidden = random_mask()
    loss = masked_error(prediction, target, hidden)
    wild = torch.where(hidden, prediction, prediction * 1000)
    assert torch.equal(masked_error(wild, target, hidden), loss)
    wild = torch.where(hidden, prediction, torch.inf)  # not even a pixel without a value
    assert torch.equal(masked_error(wild, target, hidden), loss)


def test_restored_is_no_loss_and_one_value_for_all_is_chance():
    target, hidden = random_images(3, 8), random_mask(3, 8)
    assert float(masked_error(target, target, hidden)) == 0
    best = torch.full_like(target, float(target[hidden].mean()))
    assert spread(target, hidden) == pytest.approx(float(masked_error(best, target, hidden)))
    for wrong in (-0.1, 0.1):
        assert float(masked_error(best + wrong, target, hidden)) > spread(target, hidden)


@pytest.mark.parametrize(
    ("dtype", "result", "rel"),
    [
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
        (torch.float32, torch.float32, 1e-5),
        (torch.float64, torch.float64, 1e-12),
    ],
)
def test_low_precision_is_only_that_of_the_input(dtype, result, rel):
    prediction, target = random_images(2, 16, 1, dtype), random_images(2, 16, 2, dtype)
    hidden = random_mask(2, 16)
    loss = masked_error(prediction, target, hidden)
    assert loss.dtype == result
    assert float(loss) == pytest.approx(float(slow_error(prediction, target, hidden)), rel=rel)


# The masks


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 5),
    st.integers(2, 40),
    st.integers(1, 12),
    st.floats(0.05, 0.95),
    st.integers(0, 10**6),
)
def test_exactly_the_stated_share_of_whole_patches_is_hidden(n, size, patch, ratio, seed):
    along = int(np.ceil(size / patch))
    count = round(ratio * along**2)
    if count in (0, along**2):
        with pytest.raises(PosconError, match="patch"):
            hidden_patches(n, size, patch=patch, ratio=ratio, seed=seed)
        return
    hidden = hidden_patches(n, size, patch=patch, ratio=ratio, seed=seed)
    assert hidden.shape == (n, 1, size, size)
    assert hidden.dtype == torch.bool
    for row in hidden[:, 0]:
        n_hidden = 0
        for i in range(0, size, patch):
            for j in range(0, size, patch):
                cell = row[i : i + patch, j : j + patch]
                assert cell.all() or not cell.any()
                n_hidden += int(cell.all())
        assert n_hidden == count


def test_every_patch_is_hidden_as_often():
    often = hidden_patches(4000, 8, patch=2, ratio=0.75, seed=3)[:, 0, ::2, ::2].double().mean(0)
    torch.testing.assert_close(often, torch.full((4, 4), 0.75).double(), rtol=0, atol=0.03)


def test_masks_follow_from_their_seed_and_differ_between_views():
    how = {"patch": 4, "ratio": 0.5}
    masks = hidden_patches(6, 32, seed=1, **how)
    assert torch.equal(masks, hidden_patches(6, 32, seed=1, **how))
    assert not torch.equal(masks, hidden_patches(6, 32, seed=2, **how))
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 6


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.5), SIZE)


def method(patch=4, ratio=0.75) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    loss = MaskedAutoencoder.Settings(patch=patch, ratio=ratio)
    return MaskedAutoencoder(encoder, HeadSettings(), loss, n_slices=8)


def batch(n=4, views=VIEWS) -> SliceBatch:
    canvas = canvas_size(SIZE, views.settings)
    images = random_images(n, canvas, 1, torch.float32)
    return SliceBatch(images, (torch.arange(n) + 1) / n)


def run(mae, slices, seed=5, views=VIEWS):
    """A step, what the encoder saw, and what came out."""
    seen = []
    hooks = [
        mae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        mae.to_pixels.register_forward_hook(lambda *args: seen.append(args[2])),
    ]
    step = mae.step(slices, views, seed, 0.0)
    for hook in hooks:
        hook.remove()
    return step, *seen


def test_a_step_follows_from_its_seed():
    first, again, other = (method().step(batch(), VIEWS, seed, 0.0) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert (first.chance, first.floor) == (again.chance, again.floor)
    assert not torch.equal(first.loss, other.loss)


def test_a_step_leaves_the_global_generator_alone():
    mae = method()
    before = torch.get_rng_state()
    mae.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_is_the_error_where_a_view_was_hidden():
    """In goes the view with its noise; asked for is the same view without changes of intensity."""
    mae, slices = method(), batch()
    step, seen, prediction = run(mae, slices)
    hidden = hidden_patches(4, SIZE, patch=4, ratio=0.75, seed=stream(5, "masks"))
    view = VIEWS(slices.images, 5)
    torch.testing.assert_close(seen, view.masked_fill(hidden, 0.0))
    steady = VIEWS.settings.model_copy(
        update={"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0}
    )
    target = ViewMaker(steady, SIZE)(slices.images, 5)
    assert not torch.allclose(target, view, atol=0.1)
    expected = slow_error(prediction, target, hidden)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(step.chance) == pytest.approx(
        float(np.var(target[hidden].double().numpy())), rel=1e-5
    )
    assert step.floor == 0


def test_hidden_pixels_do_not_reach_the_network():
    """Slices that differ only where their views are hidden give the same prediction."""
    still = ViewMaker(
        ViewSettings(rotation=0, scale=(1, 1), shift=0, elastic=0, intensity_probability=0), SIZE
    )
    mae, slices = method(), batch(views=still)
    hidden = hidden_patches(4, SIZE, patch=4, ratio=0.75, seed=stream(5, "masks"))
    assert slices.images.shape == hidden.shape
    step, _, prediction = run(mae, slices, views=still)
    slices.images = torch.where(hidden, slices.images * 7 + 3, slices.images)
    changed, _, again = run(mae, slices, views=still)
    assert torch.equal(prediction, again)
    assert not torch.equal(step.loss, changed.loss)
    slices.images = torch.where(hidden, slices.images, slices.images + 1)
    assert not torch.equal(run(mae, slices, views=still)[2], prediction)


@pytest.mark.parametrize("width", [2, 16])
def test_a_fresh_network_is_at_chance(width):
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=width, levels=2))
    mae = MaskedAutoencoder(encoder, HeadSettings(), MaskedAutoencoder.Settings(patch=4), 8)
    step = mae.step(batch(16), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(float(step.chance), rel=0.1)


def test_encoder_and_decoder_learn():
    mae = method()
    mae.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in mae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert mae.parts == ("encoder", "decoder")
    assert all(hasattr(mae, part) for part in mae.parts)
    assert not mae.has_head


def test_under_autocast_the_loss_is_in_single_precision():
    mae, slices = method(), batch()
    expected = mae.step(slices, VIEWS, 5, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        step = mae.step(slices, VIEWS, 5, 0.0)
    assert step.loss.dtype == torch.float32
    assert float(step.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=0.05)
    assert float(step.chance) == pytest.approx(float(expected.chance))


def test_a_few_steps_restore_what_is_hidden():
    """Stripes go on behind what hides them, so the loss falls well below chance."""
    still = ViewSettings(rotation=0, scale=(1, 1), elastic=0, shift=0.1, noise=0.05)
    views = ViewMaker(still, SIZE)
    mae, slices = method(ratio=0.5), batch(8, views)
    line = torch.arange(slices.images.shape[-1]) * 2 * np.pi / 8
    slices.images = (line.sin() * 1.4).expand_as(slices.images)
    optimiser = torch.optim.Adam(mae.parameters(), 0.02)
    shares = []
    for seed in range(60):
        optimiser.zero_grad()
        step = mae.step(slices, views, seed, 0.0)
        step.loss.backward()
        optimiser.step()
        shares.append(float(step.loss.detach()) / step.chance)
    assert np.mean(shares[-5:]) < 0.5


@pytest.mark.parametrize(
    "wrong", [{"patch": 0}, {"ratio": 0}, {"ratio": 1}, {"ratio": -0.5}, {"rate": 0.5}]
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(MaskedAutoencoder.Settings, wrong)


@pytest.mark.parametrize("wrong", [{"patch": 16}, {"patch": 8, "ratio": 0.1}])
def test_a_patch_that_leaves_nothing_to_see_or_to_restore(wrong):
    with pytest.raises(PosconError, match="patch"):
        method(**wrong).check(100, VIEWS)


def test_a_patch_is_hidden_in_all_input_channels_and_the_slice_itself_is_restored():
    """Two image channels, one neighbour on each side: channels 2 and 3 of 6 are the slice."""
    images = torch.randn(3, 6, 24, 24) + 5
    views = ViewMaker(ViewSettings(), SIZE, 2)
    seen, target, hidden = masked_views(images, views, 7, slice(2, 4), patch=4, ratio=0.5)
    assert seen.shape == (3, 6, SIZE, SIZE)
    assert hidden.shape == (3, 1, SIZE, SIZE)
    assert not seen.masked_select(hidden).any()
    plain = ViewMaker(ViewSettings(intensity_probability=0.0), SIZE, 2)
    assert torch.equal(target, plain(images, 7)[:, 2:4])
    squared = (target - 1).square()[hidden.expand_as(target)]
    ones = torch.ones_like(target)
    assert float(masked_error(ones, target, hidden)) == pytest.approx(float(squared.mean()))
