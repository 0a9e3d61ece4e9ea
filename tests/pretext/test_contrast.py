"""The cross-entropy over pairs of views against the formula written out, and what is around it."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poscon.pretext.contrast import (
    chance_level,
    contrastive_loss,
    floor_level,
    mean_similarity,
    two_views,
    unit,
)
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def slow_loss(embeddings, positives, negatives, temperature):
    """The formula of ``contrastive_loss``, one pair at a time, in double precision."""
    z = [row / row.norm() for row in embeddings.double()]
    n = len(z)
    per_anchor = []
    for i in range(n):
        mine = [j for j in range(n) if j != i and positives[i][j]]
        if not mine:
            continue
        logits = [torch.dot(z[i], z[k]) / temperature for k in range(n)]
        total = 0.0
        for j in mine:
            if negatives is None:
                under = [logits[k] for k in range(n) if k != i]
            else:
                under = [logits[j]] + [logits[k] for k in range(n) if k != i and negatives[i][k]]
            total = total - (logits[j] - torch.stack(under).logsumexp(0))
        per_anchor.append(total / len(mine))
    if not per_anchor:
        return embeddings.double().sum() * 0
    return sum(per_anchor) / len(per_anchor)


def random_embeddings(n, dimension, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def masks(draw, n):
    """Any positives, not symmetric, diagonal and all; negatives that are none of them, or None."""
    bits = draw(st.lists(st.sampled_from("pn-"), min_size=n * n, max_size=n * n))
    kinds = [bits[i * n : (i + 1) * n] for i in range(n)]
    positives = torch.tensor([[kind == "p" for kind in row] for row in kinds])
    negatives = torch.tensor([[kind == "n" for kind in row] for row in kinds])
    return positives, negatives if draw(st.booleans()) else None


@st.composite
def batches(draw):
    n = draw(st.integers(1, 8))
    embeddings = random_embeddings(n, draw(st.integers(1, 5)), draw(st.integers(0, 10**6)))
    assume(bool((embeddings.norm(dim=1) > 1e-3).all()))
    return embeddings, *draw(masks(n)), draw(st.sampled_from([0.02, 0.1, 1.0, 3.0]))


@settings(deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_formula(batch):
    embeddings, positives, negatives, temperature = batch
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss = contrastive_loss(fast, positives, temperature=temperature, negatives=negatives)
    expected = slow_loss(slow, positives, negatives, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-8)


@settings(deadline=None)
@given(batches())
def test_chance_is_the_loss_of_equal_embeddings(batch):
    _, positives, negatives, temperature = batch
    equal = torch.ones(len(positives), 3, dtype=torch.float64)
    loss = contrastive_loss(equal, positives, temperature=temperature, negatives=negatives)
    assert chance_level(positives, negatives) == pytest.approx(float(loss), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_floor_is_the_loss_of_groups_at_right_angles(groups):
    """Rows of one group are positives of each other and alike, all others far from them."""
    groups = torch.tensor(groups)
    positives = groups[:, None] == groups
    embeddings = torch.nn.functional.one_hot(groups, 4).double()
    for negatives in (None, ~positives):
        loss = contrastive_loss(embeddings, positives, temperature=0.02, negatives=negatives)
        assert floor_level(positives, negatives) == pytest.approx(float(loss), abs=1e-9)


def test_a_known_value_with_negatives():
    """Anchor 0 has the positive 1 and the negative 2, all at right angles; 3 is neither."""
    embeddings = torch.eye(4)
    positives, negatives = torch.zeros(2, 4, 4, dtype=torch.bool)
    positives[0, 1] = negatives[0, 2] = True
    loss = contrastive_loss(embeddings, positives, temperature=0.7, negatives=negatives)
    assert float(loss) == pytest.approx(math.log(2))


def test_without_negatives_a_positive_has_no_loss():
    embeddings = random_embeddings(5, 3).requires_grad_()
    positives = torch.ones(5, 5, dtype=torch.bool)
    loss = contrastive_loss(embeddings, positives, temperature=0.1, negatives=~positives)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert embeddings.grad.abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_temperatures_with_negatives(temperature, dtype):
    embeddings = random_embeddings(10, 6, dtype=dtype).requires_grad_()
    own = torch.arange(5).repeat(2)
    positives = own[:, None] == own
    loss = contrastive_loss(embeddings, positives, temperature=temperature, negatives=~positives)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    expected = slow_loss(embeddings.detach(), positives, ~positives, temperature)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_under_autocast_the_loss_is_as_exact():
    embeddings = random_embeddings(24, 16, dtype=torch.float32)
    own = torch.arange(12).repeat(2)
    positives = own[:, None] == own
    how = {"temperature": 0.1, "negatives": ~positives}
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(embeddings, positives, **how)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive_loss(embeddings, positives, **how))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_unit_vectors_lie_along_the_last_axis(dtype, result):
    vectors = random_embeddings(12, 4, dtype=dtype).reshape(3, 4, 4)
    scaled = unit(vectors)
    assert scaled.dtype == result
    wide = vectors.to(result)
    torch.testing.assert_close(scaled, wide / wide.square().sum(-1, keepdim=True).sqrt())


def test_mean_similarity_is_the_mean_cosine_of_different_rows():
    embeddings = random_embeddings(7, 3).requires_grad_()
    similarity = mean_similarity(embeddings)
    cosines = [
        torch.nn.functional.cosine_similarity(embeddings[i], embeddings[j], dim=0)
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    torch.testing.assert_close(similarity, torch.stack(cosines).mean().detach())
    assert not similarity.requires_grad
    assert float(mean_similarity(torch.ones(4, 3))) == pytest.approx(1)


def test_two_views_are_of_all_slices_and_then_again():
    views = ViewMaker(ViewSettings(), 8)
    canvas = canvas_size(8, views.settings)
    images = torch.randn(3, 1, canvas, canvas, generator=torch.Generator().manual_seed(0))
    pair = two_views(SliceBatch(images, torch.ones(3)), views, 5)
    assert torch.equal(pair[:3], views(images, 5, view=0))
    assert torch.equal(pair[3:], views(images, 5, view=1))
    assert not torch.allclose(pair[:3], pair[3:])
