"""mixup against its formulas written out, and the method around it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.finetuning.mixup import Mixup, draw_pairs, mix, soft_supervised_loss
from poscon.finetuning.supervised import Supervised, supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view_to_labels, canvas_size

SIZE = 16
VIEWS = ViewMaker(ViewSettings(), SIZE)


def random(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def everywhere_labelled_loss(logits, targets):
    return soft_supervised_loss(logits, targets, torch.ones_like(targets[:, 0], dtype=torch.bool))


# Drawing


@settings(deadline=None)
@given(st.integers(1, 20), st.floats(0.01, 10), st.integers(0, 2**63 - 1))
def test_every_slice_has_a_partner_and_is_one(n, alpha, seed):
    partners, shares = draw_pairs(n, alpha, seed)
    assert sorted(partners.tolist()) == list(range(n))
    assert shares.shape == (n,)
    assert shares.dtype == torch.float32
    assert ((shares >= 0) & (shares <= 1)).all()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha):
    """Its moments: a mean of 1/2 and a variance of 1 / (4 (2 alpha + 1)); one draw a pair."""
    _, shares = draw_pairs(20000, alpha, 3)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert len(set(shares.tolist())) > 1000


def test_pairs_follow_from_the_seed():
    first, again, other = (draw_pairs(16, 0.4, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# Mixing


@settings(deadline=None)
@given(st.integers(1, 6), st.sampled_from([(), (2,), (1, 3, 3)]), st.integers(0, 1000))
def test_a_mixture_is_that_of_the_formula(n, shape, seed):
    values = random((n, *shape), seed)
    partners, shares = draw_pairs(n, 1.0, seed)
    mixed = mix(values, partners, shares)
    for i in range(n):
        share, partner = float(shares[i]), int(partners[i])
        torch.testing.assert_close(mixed[i], share * values[i] + (1 - share) * values[partner])


def test_a_whole_share_leaves_a_slice_and_none_leaves_its_partner():
    values, partners = random((3, 2, 2)), torch.tensor([1, 2, 0])
    assert torch.equal(mix(values, partners, torch.ones(3)), values)
    assert torch.equal(mix(values, partners, torch.zeros(3)), values[partners])


def test_mixed_labels_are_probabilities():
    one_hot = torch.nn.functional.one_hot(torch.arange(12).reshape(3, 4) % 5)
    mixed = mix(one_hot, *draw_pairs(3, 1.0, 0))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.sum(-1), torch.ones(3, 4))


# The loss


def slow_loss(logits, targets):
    """Cross-entropy a pixel, and soft Dice a foreground class over the whole batch."""
    b, c, h, w = logits.shape
    log_p = logits - logits.logsumexp(1, keepdim=True)
    entropy, overlap, total = 0.0, [0.0] * c, [0.0] * c
    for i in range(b):
        for y in range(h):
            for x in range(w):
                for k in range(c):
                    target, value = targets[i, k, y, x], log_p[i, k, y, x]
                    entropy = entropy - target * value
                    overlap[k] = overlap[k] + target * value.exp()
                    total[k] = total[k] + target + value.exp()
    dice = [1 - (2 * overlap[k] + 1e-5) / (total[k] + 1e-5) for k in range(1, c)]
    return entropy / (b * h * w) + sum(dice) / (c - 1)


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 10**6),
)
def test_value_and_gradient_are_those_of_the_formula(shape, seed):
    targets = random(shape, seed + 1).softmax(1)
    fast, slow = (random(shape, seed).requires_grad_() for _ in range(2))
    loss, expected = everywhere_labelled_loss(fast, targets), slow_loss(slow, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-9)


def test_of_labels_that_are_not_mixed_it_is_the_supervised_loss():
    labels = torch.randint(0, 4, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = random((3, 4, 8, 8), dtype=torch.float32)
    targets = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    torch.testing.assert_close(
        everywhere_labelled_loss(logits, targets), supervised_loss(logits, labels)
    )


def test_the_cross_entropy_of_a_mixture_is_the_mixture_of_cross_entropies():
    """Known values: of a network without an idea log 3, and Dice by the sizes of the classes."""
    targets = torch.zeros(1, 3, 1, 2)
    targets[0, :, 0, 0] = torch.tensor([0.3, 0.7, 0.0])
    targets[0, :, 0, 1] = torch.tensor([0.5, 0.0, 0.5])
    loss = everywhere_labelled_loss(torch.zeros(1, 3, 1, 2), targets)
    dice = [2 * 0.7 / 3 / (2 / 3 + 0.7), 2 * 0.5 / 3 / (2 / 3 + 0.5)]
    assert float(loss) == pytest.approx(math.log(3) + 1 - sum(dice) / 2, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_only_that_of_the_input(dtype):
    logits = random((2, 3, 8, 8), dtype=dtype)
    targets = random((2, 3, 8, 8), 1, dtype=torch.float32).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = everywhere_labelled_loss(logits, targets)
    assert loss.dtype == torch.float32
    expected = slow_loss(logits.double(), targets.double())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


# The method


def method(alpha=1.0, width=2) -> Mixup:
    torch.manual_seed(0)
    return Mixup(
        build_network(NetworkSettings(width=width, levels=2), 3), Mixup.Settings(alpha=alpha)
    )


def batch(n=4, views=VIEWS) -> SliceBatch:
    """Label 1 is bright and label 2 is dark."""
    canvas = canvas_size(SIZE, views.settings)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 3, (n, 1, 4, 4), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(canvas, canvas))[:, 0].to(torch.uint8)
    noise = torch.randn(n, 1, canvas, canvas, generator=generator)
    images = torch.tensor([0.0, 2.0, -2.0])[labels.long()][:, None] + noise * 0.1
    return SliceBatch(images, torch.arange(n) / n, labels)


def test_a_step_mixes_views_and_their_labels_alike():
    mixup, slices, seed = method(), batch(), 5
    seen = []
    mixup.network.register_forward_hook(lambda _, args, logits: seen.extend([args[0], logits]))
    step = mixup.step(slices, VIEWS, seed, 0.0)
    mixed, logits = seen
    images = VIEWS(slices.images, seed)
    labels = apply_view_to_labels(slices.labels, VIEWS.draw(4, seed), SIZE)
    one_hot = torch.stack([(labels == k).double() for k in range(3)], dim=1)
    targets = []
    for i in range(4):  # which two they are, and how much of each, shows in the image itself
        fits = []
        for j in range(4):
            change = (images[i] - images[j]).flatten()
            share = change @ (mixed[i] - images[j]).flatten() / (change @ change + 1e-12)
            error = (mixed[i] - share * images[i] - (1 - share) * images[j]).abs().max()
            fits.append((float(error), float(share), j))
        error, share, j = min(fits)
        assert error < 1e-4
        targets.append(share * one_hot[i] + (1 - share) * one_hot[j])
    expected = slow_loss(logits.detach().double(), torch.stack(targets))
    assert float(step.loss.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_almost_nothing_mixed_is_almost_supervised():
    mixup = method(alpha=1e-5).eval()
    supervised = Supervised(mixup.network, Supervised.Settings()).eval()
    slices = batch(3)
    losses = []
    for seed in range(20):  # shares are 0 or 1: some seed keeps every slice or swaps whole ones
        one, other = (m.step(slices, VIEWS, seed, 0.0).loss for m in (mixup, supervised))
        losses.append(abs(float(one.detach() - other.detach())))
    assert min(losses) < 1e-6


def test_a_step_follows_from_its_seed():
    slices, mixup = batch(), method().eval()
    first, again, other = (mixup.step(slices, VIEWS, seed, 0.0).loss for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_mixed_follows_from_the_seed_too():
    still = ViewMaker(
        ViewSettings(
            warp_probability=0, shift=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0
        ),
        SIZE,
    )
    slices, mixup = batch(), method().eval()
    one, other = (mixup.step(slices, still, seed, 0.0).loss for seed in (5, 6))
    assert not torch.equal(one, other)


def test_a_step_leaves_the_global_generators_alone():
    mixup, slices = method(), batch()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    mixup.step(slices, VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])
    assert np.random.get_state()[2] == numpy_before[2]


def test_every_parameter_learns():
    mixup = method()
    mixup.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in mixup.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_single_slice_is_mixed_with_itself():
    mixup, slices = method().eval(), batch(1)
    supervised = Supervised(mixup.network, Supervised.Settings()).eval()
    torch.testing.assert_close(
        mixup.step(slices, VIEWS, 0, 0.0).loss, supervised.step(slices, VIEWS, 0, 0.0).loss
    )


def test_it_needs_no_unlabelled_slices_and_gives_the_network():
    assert not Mixup.uses_unlabelled
    mixup = method()
    assert mixup.model is mixup.network


def test_it_learns():
    """The loss falls below that of a network without an idea, and labels are found unmixed."""
    views = ViewMaker(ViewSettings(gamma=0, brightness=0, contrast=0), SIZE)
    mixup, slices = method(alpha=0.1, width=4), batch(8, views)
    optimiser = torch.optim.Adam(mixup.parameters(), 0.02)
    losses = []
    for seed in range(60):
        optimiser.zero_grad()
        loss = mixup.step(slices, views, seed, seed / 60).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * (math.log(3) + 2 / 3)
    found = mixup.eval().model(views(slices.images, 99)).argmax(1)
    labels = apply_view_to_labels(slices.labels, views.draw(8, 99), SIZE)
    assert (found == labels).float().mean() > 0.8


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": -1}, {"alhpa": 1}])
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(Mixup.Settings, wrong)
