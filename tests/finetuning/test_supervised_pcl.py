"""Supervised training with PCL beside it: each term against its own method, and what it sees."""

import pytest
import torch

from poscon.errors import PosconError
from poscon.finetuning.supervised import Supervised
from poscon.finetuning.supervised_pcl import SupervisedWithContrast
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.pretext.contrast import two_views
from poscon.pretext.pcl import positional_contrastive_loss
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view, canvas_size

SIZE = 16
VIEWS = ViewMaker(ViewSettings(), SIZE)


def method(deep_supervision=0, **told) -> SupervisedWithContrast:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=2, levels=2), 3)
    settings = SupervisedWithContrast.Settings(**{"threshold": 0.3, **told})
    return SupervisedWithContrast(network, settings, deep_supervision)


def batch(n=4, seed=1) -> SliceBatch:
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n, canvas, canvas), generator=generator, dtype=torch.uint8)
    images = torch.randn(2 * n, 1, canvas, canvas, generator=generator)
    positions = (torch.arange(n) + 1) / n
    without = SliceBatch(images[n:], positions.flip(0) - 0.1)
    return SliceBatch(images[:n], positions, labels, unlabelled=without)


def slow_contrast(embeddings, positions, threshold, temperature) -> torch.Tensor:
    """Eq. 1 and 2 of Zeng et al., anchor by anchor in double precision."""
    z = torch.nn.functional.normalize(embeddings.double(), dim=1)
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        similarities = torch.stack([z[i] @ z[k] / temperature for k in others])
        near = [abs(float(positions[i] - positions[k])) < threshold for k in others]
        if any(near):
            losses.append(-similarities.log_softmax(0)[near].mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_a_step_is_both_losses(weight):
    both, slices, seed = method(weight=weight), batch(), 5
    seen = []
    both.network.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    both.head.register_forward_hook(lambda *args: seen.append(args[2].detach()))
    step = both.step(slices, VIEWS, seed, 0.5)
    images, embeddings = seen
    assert images.shape == (12, 1, SIZE, SIZE)
    view = VIEWS.draw(4, seed)
    torch.testing.assert_close(images[:4], apply_view(slices.images, view, SIZE))
    pairs = two_views(slices.unlabelled, VIEWS, stream(seed, "unlabelled"))
    torch.testing.assert_close(images[4:], pairs)
    assert not torch.allclose(pairs[:4], pairs[4:])
    of_unlabelled = slices.unlabelled.positions
    positions = torch.cat([slices.positions, of_unlabelled, of_unlabelled])
    contrast = float(slow_contrast(embeddings, positions, 0.3, 0.1))
    assert float(step.logs["contrast"]) == pytest.approx(contrast, rel=1e-4)
    expected = float(step.logs["supervised"]) + weight * contrast
    assert float(step.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in step.logs.values())


@pytest.mark.parametrize("deep_supervision", [0, 1])
def test_the_supervised_term_is_that_of_supervised_training(deep_supervision):
    both, slices = method(deep_supervision).eval(), batch()
    alone = Supervised(both.network, Supervised.Settings(), deep_supervision)
    alone.coarse = both.coarse
    torch.testing.assert_close(
        both.step(slices, VIEWS, 5, 0.5).logs["supervised"],
        alone.eval().step(slices, VIEWS, 5, 0.5).loss.detach(),
    )


def test_labelled_slices_are_contrasted_with_unlabelled_ones():
    """Only the labelled slices' positions change, and so does the contrast."""
    both, slices = method().eval(), batch()
    before = both.step(slices, VIEWS, 5, 0.5).logs
    slices.positions = slices.positions.flip(0)
    after = both.step(slices, VIEWS, 5, 0.5).logs
    assert torch.equal(before["supervised"], after["supervised"])
    assert not torch.isclose(before["contrast"], after["contrast"])


def test_unlabelled_slices_teach_the_encoder_and_not_the_decoder():
    gradients = []
    for seed in (1, 2):
        both, slices = method(weight=1.0).eval(), batch()
        slices.unlabelled = batch(seed=seed).unlabelled
        both.step(slices, VIEWS, 5, 0.5).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in both.network.named_parameters()})
    one, other = gradients
    changed = {n.split(".")[0] for n in one if not torch.allclose(one[n], other[n])}
    assert changed == {"encoder"}


def test_labels_of_unlabelled_slices_are_not_used():
    both, slices = method().eval(), batch()
    without = both.step(slices, VIEWS, 5, 0.5).loss
    slices.unlabelled.labels = slices.labels.flip(0)
    assert torch.equal(both.step(slices, VIEWS, 5, 0.5).loss, without)


def test_a_step_follows_from_its_seed_and_leaves_the_global_generator_alone():
    both, slices = method().eval(), batch()
    before = torch.get_rng_state()
    first, again, other = (both.step(slices, VIEWS, seed, 0.5).loss for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_has_no_head():
    both = method()
    assert both.model is both.network
    assert not any("head" in name for name in both.model.state_dict())


@pytest.mark.parametrize(
    "change", [{"threshold": 0.6}, {"kernel": "gaussian"}, {"grey": 0.6}, {"temperature": 0.2}]
)
def test_every_setting_of_the_contrast_has_an_effect(change):
    slices = batch()
    before, after = (method(**how).step(slices, VIEWS, 5, 0.5).logs for how in ({}, change))
    assert not torch.isclose(before["contrast"], after["contrast"])
    assert torch.equal(before["supervised"], after["supervised"])


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"threshold": 0}, {"temperature": 0}, {"wight": 1}]
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(SupervisedWithContrast.Settings, wrong)


def test_with_phases_a_positive_is_near_in_both():
    both, slices, seed = method(phase=0.2), batch(), 5
    slices.phases = torch.tensor([0.0, 0.1, 0.5, 0.9])
    slices.unlabelled.phases = torch.tensor([0.95, 0.4, 0.6, 0.0])
    seen = []
    both.head.register_forward_hook(lambda *args: seen.append(args[2].detach()))
    step = both.step(slices, VIEWS, seed, 0.5)
    of_unlabelled = slices.unlabelled
    positions = torch.cat([slices.positions, of_unlabelled.positions.repeat(2)])
    phases = torch.cat([slices.phases, of_unlabelled.phases.repeat(2)])
    expected = positional_contrastive_loss(
        seen[0], torch.stack([positions, phases], 1), threshold=0.3, temperature=0.1, phase=0.2
    )
    assert float(step.logs["contrast"]) == pytest.approx(float(expected), rel=1e-5)
    without = slow_contrast(seen[0], positions, 0.3, 0.1)
    assert float(step.logs["contrast"]) != pytest.approx(float(without), rel=1e-3)
