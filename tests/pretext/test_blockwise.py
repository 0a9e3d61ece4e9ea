"""The loss by blocks of anchors against the formula written out and against the dense form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.pretext.blockwise import anchor_losses, least_loss
from poscon.pretext.contrast import contrastive_loss, unit


def slow_losses(z, weights, left_out, temperature):
    """L_i of ``contrastive_loss`` for every row, one pair at a time."""
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        mine = [j for j in others if weights[i, j] > 0]
        loss = z.sum() * 0
        if mine:
            logits = {k: torch.dot(z[i], z[k]) / temperature for k in others if not left_out[i, k]}
            under = torch.stack(list(logits.values())).logsumexp(0)
            loss = sum(weights[i, j] * (under - logits[j]) for j in mine)
            loss = loss / sum(weights[i, j] for j in mine)
        losses.append(loss)
    return torch.stack(losses)


def random_embeddings(n, dimension, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64)


def ahead(anchors, keys):
    """A rule that is not symmetric: a little ahead, or alike."""
    return (keys - anchors[:, None] >= 0) & (keys - anchors[:, None] < 3)


def ahead_with_weights(anchors, keys):
    """The same positives. Each counts less the further ahead it is."""
    return ahead(anchors, keys) * (1 - (keys - anchors[:, None]) / 3.0).double()


def further_ahead(anchors, keys):
    """What is left out, also not symmetric: just beyond the positives."""
    return (keys - anchors[:, None] >= 3) & (keys - anchors[:, None] < 6)


def nothing(anchors, keys):
    return torch.zeros(len(anchors), len(keys), dtype=torch.bool)


@st.composite
def batches(draw):
    n = draw(st.integers(1, 11))
    z = unit(random_embeddings(n, draw(st.integers(1, 5)), draw(st.integers(0, 10**6))))
    keys = torch.tensor(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    first = draw(st.integers(0, n - 1))
    how = {
        "related": draw(st.sampled_from([ahead, ahead_with_weights])),
        "temperature": draw(st.sampled_from([0.02, 0.1, 1.0])),
        "left_out": draw(st.sampled_from([None, further_ahead])),
        "anchors": range(first, draw(st.integers(first + 1, n))),
        "block": draw(st.integers(1, n + 1)),
    }
    return z, keys, how


@settings(deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_formula(batch):
    z, keys, how = batch
    fast, slow = z.clone().requires_grad_(), z.clone().requires_grad_()
    terms = anchor_losses(fast, keys, **how)
    anchors = slice(how["anchors"].start, how["anchors"].stop)
    itself = torch.eye(len(keys), dtype=torch.bool)
    weights = how["related"](keys, keys).double().masked_fill(itself, 0)
    left_out = (how["left_out"] or nothing)(keys, keys) & ~itself
    expected = slow_losses(slow, weights, left_out, how["temperature"])[anchors]
    torch.testing.assert_close(terms.losses, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms.weight, weights.sum(dim=1)[anchors])
    under = (~itself & ~left_out).sum(dim=1)[anchors].clamp(min=1)
    torch.testing.assert_close(terms.chance, under.double().log())
    factors = torch.linspace(-1, 2, len(terms.losses), dtype=torch.float64)
    (terms.losses * factors).sum().backward()
    (expected * factors).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(batches())
def test_the_mean_over_anchors_with_a_positive_is_the_dense_loss(batch):
    z, keys, how = batch
    fast, dense = z.clone().requires_grad_(), z.clone().requires_grad_()
    terms = anchor_losses(fast, keys, **(how | {"anchors": None}))
    loss = terms.losses.sum() / (terms.weight > 0).sum().clamp(min=1)
    left_out = how["left_out"] and how["left_out"](keys, keys)
    expected = contrastive_loss(
        dense, how["related"](keys, keys), temperature=how["temperature"], left_out=left_out
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    unit(fast).backward(torch.autograd.grad(loss, fast)[0])  # the dense one scales to unit length
    expected.backward()
    torch.testing.assert_close(fast.grad, dense.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_gradient_by_finite_differences(block):
    z = unit(random_embeddings(7, 3)).requires_grad_()
    keys = torch.tensor([0, 2, 2, 5, 9, 10, 30])
    how = {"temperature": 0.2, "left_out": further_ahead, "block": block}
    assert torch.autograd.gradcheck(
        lambda z: anchor_losses(z, keys, ahead_with_weights, **how).losses, z
    )


@pytest.mark.parametrize("rule", [ahead, ahead_with_weights])
def test_nobody_has_a_positive(rule):
    z = unit(random_embeddings(5, 3)).requires_grad_()
    terms = anchor_losses(z, torch.arange(5) * 10, rule, temperature=0.1)
    terms.losses.sum().backward()
    assert not terms.losses.any()
    assert not terms.weight.any()
    assert not terms.floor.any()
    assert not z.grad.any()


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures(temperature):
    z, keys = unit(random_embeddings(20, 6)).float(), torch.arange(20)
    z.requires_grad_()
    losses = anchor_losses(z, keys, ahead, temperature=temperature, block=3).losses
    losses.sum().backward()
    assert z.grad.isfinite().all()
    rules = ahead(keys, keys), nothing(keys, keys)
    expected = slow_losses(z.detach().double(), *rules, temperature)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [ahead, ahead_with_weights])
def test_under_autocast_value_and_gradient_are_as_exact(rule):
    keys = torch.arange(40) // 3

    def run():
        z = unit(random_embeddings(40, 16)).float().requires_grad_()
        losses = anchor_losses(z, keys, rule, temperature=0.1, block=16).losses
        losses.sum().backward()
        return losses.detach(), z.grad

    with torch.autocast("cpu", torch.bfloat16):
        losses, gradient = run()
    assert losses.dtype == torch.float32
    for under, plain in zip((losses, gradient), run(), strict=True):
        assert torch.equal(under, plain)


def test_a_second_derivative_is_refused():
    z = unit(random_embeddings(5, 3)).requires_grad_()
    losses = anchor_losses(z, torch.arange(5), ahead, temperature=0.1).losses
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(losses.sum(), z, create_graph=True)


def test_no_softmax_has_a_lower_loss():
    """The loss of a softmax q is -sum_j w_j log q_j / sum_j w_j. Its least value is a limit."""
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    least = least_loss(weights)
    assert least.tolist() == pytest.approx([1.5 * math.log(2), 0, 0], abs=1e-7)
    softmaxes = random_embeddings(50, 4).softmax(dim=1).float()
    losses = -(softmaxes.log() @ weights[0]) / weights[0].sum()
    assert (losses > least[0]).all()
    best = torch.tensor([0.5, 0.25, 0.25])
    assert float(-(weights[0, :3] * best.log()).sum()) == pytest.approx(float(least[0]))
    equal = torch.tensor([[True, True, True, False], [False] * 4])
    assert least_loss(equal).tolist() == [math.log(3), 0]
    torch.testing.assert_close(least_loss(equal.float() / 7), least_loss(equal))
