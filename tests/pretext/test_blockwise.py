"""The loss by blocks of anchors against the formula written out and against the dense form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.pretext.blockwise import anchor_losses
from poscon.pretext.contrast import contrastive_loss, unit


def slow_losses(z, positives, temperature):
    """L_i of ``contrastive_loss`` for every row, one pair at a time."""
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        mine = [j for j in others if positives[i, j]]
        loss = z.sum() * 0
        if mine:
            logits = {k: torch.dot(z[i], z[k]) / temperature for k in others}
            under = torch.stack(list(logits.values())).logsumexp(0)
            loss = sum(under - logits[j] for j in mine) / len(mine)
        losses.append(loss)
    return torch.stack(losses)


def random_embeddings(n, dimension, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64)


def ahead(anchors, keys):
    """A rule that is not symmetric: a little ahead, or alike."""
    return (keys - anchors[:, None] >= 0) & (keys - anchors[:, None] < 3)


@st.composite
def batches(draw):
    n = draw(st.integers(1, 11))
    z = unit(random_embeddings(n, draw(st.integers(1, 5)), draw(st.integers(0, 10**6))))
    keys = torch.tensor(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    first = draw(st.integers(0, n - 1))
    how = {
        "temperature": draw(st.sampled_from([0.02, 0.1, 1.0])),
        "anchors": range(first, draw(st.integers(first + 1, n))),
        "block": draw(st.integers(1, n + 1)),
    }
    return z, keys, how


@settings(deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_formula(batch):
    z, keys, how = batch
    fast, slow = z.clone().requires_grad_(), z.clone().requires_grad_()
    losses, n_positives = anchor_losses(fast, keys, ahead, **how)
    anchors = slice(how["anchors"].start, how["anchors"].stop)
    positives = ahead(keys, keys) & ~torch.eye(len(keys), dtype=torch.bool)
    expected = slow_losses(slow, positives, how["temperature"])[anchors]
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(n_positives, positives.sum(dim=1)[anchors])
    weights = torch.linspace(-1, 2, len(losses), dtype=torch.float64)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(batches())
def test_the_mean_over_anchors_with_a_positive_is_the_dense_loss(batch):
    z, keys, how = batch
    fast, dense = z.clone().requires_grad_(), z.clone().requires_grad_()
    losses, n_positives = anchor_losses(fast, keys, ahead, **(how | {"anchors": None}))
    loss = losses.sum() / (n_positives > 0).sum().clamp(min=1)
    expected = contrastive_loss(dense, ahead(keys, keys), temperature=how["temperature"])
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    unit(fast).backward(torch.autograd.grad(loss, fast)[0])  # the dense one scales to unit length
    expected.backward()
    torch.testing.assert_close(fast.grad, dense.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_gradient_by_finite_differences(block):
    z = unit(random_embeddings(7, 3)).requires_grad_()
    keys = torch.tensor([0, 2, 2, 5, 9, 10, 30])
    assert torch.autograd.gradcheck(
        lambda z: anchor_losses(z, keys, ahead, temperature=0.2, block=block)[0], z
    )


def test_nobody_has_a_positive():
    z = unit(random_embeddings(5, 3)).requires_grad_()
    losses, n_positives = anchor_losses(z, torch.arange(5) * 10, ahead, temperature=0.1)
    losses.sum().backward()
    assert not losses.any()
    assert not n_positives.any()
    assert not z.grad.any()


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures(temperature):
    z, keys = unit(random_embeddings(20, 6)).float(), torch.arange(20)
    z.requires_grad_()
    losses, _ = anchor_losses(z, keys, ahead, temperature=temperature, block=3)
    losses.sum().backward()
    assert z.grad.isfinite().all()
    expected = slow_losses(z.detach().double(), ahead(keys, keys), temperature)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-5)


def test_under_autocast_value_and_gradient_are_as_exact():
    keys = torch.arange(40) // 3

    def run():
        z = unit(random_embeddings(40, 16)).float().requires_grad_()
        losses, _ = anchor_losses(z, keys, ahead, temperature=0.1, block=16)
        losses.sum().backward()
        return losses.detach(), z.grad

    with torch.autocast("cpu", torch.bfloat16):
        losses, gradient = run()
    assert losses.dtype == torch.float32
    for under, plain in zip((losses, gradient), run(), strict=True):
        assert torch.equal(under, plain)


def test_a_second_derivative_is_refused():
    z = unit(random_embeddings(5, 3)).requires_grad_()
    losses, _ = anchor_losses(z, torch.arange(5), ahead, temperature=0.1)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(losses.sum(), z, create_graph=True)
