"""PCL and MAE at once: each term is that of its own method, and both reach the encoder."""

import math

import numpy as np
import pytest
import torch

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext.mae import MaskedAutoencoder, hidden_patches
from poscon.pretext.pcl import positional_contrastive_loss
from poscon.pretext.pcl_mae import ContrastAndRestore
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size

SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.3), SIZE)


def method(**told) -> ContrastAndRestore:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    loss = ContrastAndRestore.Settings(**{"threshold": 0.3, "patch": 4, **told})
    return ContrastAndRestore(encoder, HeadSettings(dimension=8), loss, n_slices=8)


def batch(n=4) -> SliceBatch:
    canvas = canvas_size(SIZE, VIEWS.settings)
    images = torch.randn(n, 1, canvas, canvas, generator=torch.Generator().manual_seed(1))
    return SliceBatch(images, (torch.arange(n) + 1) / n)


def run(both, slices, seed=5):
    """A step, what the encoder saw, the embeddings, and the restored images."""
    seen = []
    hooks = [
        both.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        both.head.register_forward_hook(lambda *args: seen.append(args[2].detach())),
        both.to_pixels.register_forward_hook(lambda *args: seen.append(args[2].detach())),
    ]
    step = both.step(slices, VIEWS, seed, 0.0)
    for hook in hooks:
        hook.remove()
    return step, *seen


def slow_contrast(embeddings, positions, threshold, temperature) -> float:
    """Eq. 1 and 2 of Zeng et al. in double precision."""
    z = embeddings.double().numpy()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        total = sum(math.exp(z[i] @ z[k] / temperature) for k in others)
        near = [j for j in others if abs(float(positions[i] - positions[j])) < threshold]
        if near:
            terms = [math.log(math.exp(z[i] @ z[j] / temperature) / total) for j in near]
            losses.append(-np.mean(terms))
    return float(np.mean(losses))


def slow_error(restored, target, hidden) -> float:
    pairs = [(float(restored[i]), float(target[i])) for i in np.ndindex(*hidden.shape) if hidden[i]]
    return float(np.mean([(a - b) ** 2 for a, b in pairs]))


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_a_step_is_both_losses_of_a_hidden_and_a_whole_view(weight):
    both, slices, seed = method(weight=weight), batch(), 5
    step, images, embeddings, restored = run(both, slices, seed)
    hidden = hidden_patches(4, SIZE, patch=4, ratio=0.75, seed=stream(seed, "masks"))
    masked, whole = images[:4], images[4:]
    torch.testing.assert_close(masked, VIEWS(slices.images, seed).masked_fill(hidden, 0.0))
    torch.testing.assert_close(whole, VIEWS(slices.images, seed, view=1))
    plain = VIEWS.settings.model_copy(update={"intensity_probability": 0.0})
    target = ViewMaker(plain, SIZE)(slices.images, seed)
    contrast = slow_contrast(embeddings, slices.positions.repeat(2), 0.3, 0.1)
    error = slow_error(restored, target, hidden)
    assert float(step.logs["contrast"]) == pytest.approx(contrast, rel=1e-4)
    assert float(step.logs["reconstruction"]) == pytest.approx(error, rel=1e-4)
    assert float(step.loss.detach()) == pytest.approx(contrast + weight * error, rel=1e-4)
    variance = float(np.var(target[hidden].double().numpy()))
    assert float(step.chance) == pytest.approx(math.log(7) + weight * variance, rel=1e-5)
    assert 0 < step.floor < math.log(7)
    assert not any(value.requires_grad for value in step.logs.values())


def test_what_is_restored_is_what_mae_restores():
    """The same view, the same patches, the same layers: in evaluation mode the same error."""
    both, slices = method().eval(), batch()
    mae = MaskedAutoencoder(both.encoder, HeadSettings(), MaskedAutoencoder.Settings(patch=4), 8)
    mae.decoder, mae.to_pixels = both.decoder, both.to_pixels
    torch.testing.assert_close(
        both.step(slices, VIEWS, 5, 0.0).logs["reconstruction"],
        mae.eval().step(slices, VIEWS, 5, 0.0).loss.detach(),
    )


def test_both_terms_reach_the_encoder_and_only_one_the_decoder():
    both = method()
    both.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in both.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    gradients = []
    for weight in (1e-6, 1e3):
        both = method(weight=weight)
        both.step(batch(), VIEWS, 0, 0.0).loss.backward()
        gradients.append((both.encoder.blocks[0][0].weight.grad, both.to_pixels.weight.grad))
    (of_contrast, decoder_without), (of_both, decoder_with) = gradients
    assert of_contrast.abs().max() > 1e-4
    assert not torch.allclose(of_contrast, of_both)
    torch.testing.assert_close(decoder_with, decoder_without * 1e9, rtol=1e-3, atol=1e-6)


def test_a_step_follows_from_its_seed_and_leaves_the_global_generator_alone():
    first, again, other = (
        method().step(batch(), VIEWS, seed, 0.0).loss.detach() for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    both = method()
    before = torch.get_rng_state()
    both.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_under_autocast_the_loss_is_in_single_precision():
    both, slices = method(), batch()
    expected = both.step(slices, VIEWS, 5, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        step = both.step(slices, VIEWS, 5, 0.0)
    assert step.loss.dtype == torch.float32
    assert float(step.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=0.1)


@pytest.mark.parametrize(
    "change", [{"threshold": 0.6}, {"kernel": "gaussian"}, {"grey": 0.6}, {"temperature": 0.2}]
)
def test_every_setting_of_the_contrast_has_an_effect(change):
    slices = batch()
    before, after = (method(**how).step(slices, VIEWS, 5, 0.0).logs for how in ({}, change))
    assert not torch.isclose(before["contrast"], after["contrast"])
    assert torch.equal(before["reconstruction"], after["reconstruction"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"temperature": 0},
        {"patch": 0},
        {"ratio": 1},
        {"weight": 0},
        {"wieght": 1},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(ContrastAndRestore.Settings, wrong)


def test_with_phases_a_positive_is_near_in_both():
    both, slices = method(phase=0.2), batch()
    slices.phases = torch.tensor([0.0, 0.1, 0.5, 0.9])
    step, _, embeddings, _ = run(both, slices)
    places = torch.stack([slices.positions, slices.phases], dim=1).repeat(2, 1)
    expected = positional_contrastive_loss(
        embeddings, places, threshold=0.3, temperature=0.1, phase=0.2
    )
    assert float(step.logs["contrast"]) == pytest.approx(float(expected), rel=1e-5)
    without = slow_contrast(embeddings, slices.positions.repeat(2), 0.3, 0.1)
    assert float(step.logs["contrast"]) != pytest.approx(without, rel=1e-3)
