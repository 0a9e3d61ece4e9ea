"""NT-Xent against the formula written out, and SimCLR around it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext import blockwise, contrast
from poscon.pretext.pcl import PositionalContrast
from poscon.pretext.simclr import SimCLR, nt_xent_loss
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, canvas_size


def slow_nt_xent(embeddings, temperature):
    """Eq. 1 of Chen et al. 2020 for every ordered pair of views of one slice."""
    z = [row / row.norm() for row in embeddings.double()]
    n = len(z) // 2

    def loss(i, j):
        logits = [torch.dot(z[i], z[k]) / temperature for k in range(2 * n)]
        rest = torch.stack([logits[k] for k in range(2 * n) if k != i])
        return rest.logsumexp(0) - logits[j]

    return sum(loss(i, i + n) + loss(i + n, i) for i in range(n)) / (2 * n)


def random_embeddings(n, dimension, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64).to(dtype)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 1000), st.sampled_from([0.05, 0.5, 2]))
def test_value_and_gradient_are_those_of_the_formula(n, dimension, seed, temperature):
    embeddings = random_embeddings(2 * n, dimension, seed)
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    loss = nt_xent_loss(fast, temperature=temperature)
    expected = slow_nt_xent(slow, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-7, atol=1e-8)


def test_many_views_have_the_loss_of_few(monkeypatch):
    few, many = (random_embeddings(60, 5).requires_grad_() for _ in range(2))
    expected = nt_xent_loss(few, temperature=0.1)
    monkeypatch.setattr(contrast, "DENSE", 59)
    monkeypatch.setattr(blockwise, "BLOCK_PAIRS", 7 * 60)
    loss = nt_xent_loss(many, temperature=0.1)
    torch.testing.assert_close(loss, expected)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(many.grad, few.grad)


def test_a_known_value():
    """Two slices at right angles, each seen twice in the same way: by hand."""
    loss = nt_xent_loss(torch.eye(2).repeat(2, 1), temperature=1.0)
    assert float(loss) == pytest.approx(math.log(1 + 2 / math.e))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.data())
def test_neither_order_nor_length_matter(n, seed, data):
    embeddings = random_embeddings(2 * n, 4, seed)
    order = torch.tensor(data.draw(st.permutations(range(n))))
    factors = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=2 * n, max_size=2 * n))
    other = (embeddings * torch.tensor(factors)[:, None])[torch.cat([order + n, order])]
    torch.testing.assert_close(
        nt_xent_loss(other, temperature=0.5), nt_xent_loss(embeddings, temperature=0.5)
    )


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
    embeddings = random_embeddings(32, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent_loss(embeddings, temperature=0.1)
    assert loss.dtype == result
    assert float(loss) == pytest.approx(float(slow_nt_xent(embeddings, 0.1)), rel=rel)


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.1), SIZE)


def method(temperature=0.1, kind=SimCLR, **loss):
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=2, levels=2))
    chosen = kind.Settings(temperature=temperature, **loss)
    return kind(encoder, HeadSettings(dimension=8), chosen, n_slices=8)


def batch(n=4) -> SliceBatch:
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    return SliceBatch(images, (torch.arange(n) + 1) / n)


def test_a_step_follows_from_its_seed():
    first, again, other = (method().step(batch(), VIEWS, seed, 0.0) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.logs["similarity"], again.logs["similarity"])
    assert not torch.equal(first.loss, other.loss)


def test_a_step_leaves_the_global_generator_alone():
    simclr = method()
    before = torch.get_rng_state()
    simclr.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_is_the_loss_of_two_views():
    simclr, slices = method(temperature=0.3), batch()
    seen = []
    simclr.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    simclr.head.register_forward_hook(lambda *args: seen.append(args[2]))
    step = simclr.step(slices, VIEWS, 5, 0.0)
    pair, embeddings = seen
    torch.testing.assert_close(pair[:4], VIEWS(slices.images, 5, view=0))
    torch.testing.assert_close(pair[4:], VIEWS(slices.images, 5, view=1))
    expected = slow_nt_xent(embeddings, 0.3)
    assert float(step.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert step.floor == 0


def test_it_is_pcl_when_only_the_other_view_is_near():
    simclr = method().step(batch(8), VIEWS, 5, 0.0)
    pcl = method(kind=PositionalContrast, threshold=1 / 16).step(batch(8), VIEWS, 5, 0.0)
    torch.testing.assert_close(simclr.loss, pcl.loss)
    assert simclr.chance == pcl.chance
    assert simclr.floor == pcl.floor
    wider = method(kind=PositionalContrast, threshold=3 / 16).step(batch(8), VIEWS, 5, 0.0)
    assert not torch.allclose(simclr.loss, wider.loss)


def test_positions_do_not_matter():
    slices = batch()
    slices.positions = torch.full((4,), 0.5)
    torch.testing.assert_close(
        method().step(slices, VIEWS, 5, 0.0).loss, method().step(batch(), VIEWS, 5, 0.0).loss
    )


def test_chance_is_the_loss_of_equal_embeddings():
    simclr = method()
    torch.nn.init.zeros_(simclr.head.layers[-1].weight)
    torch.nn.init.ones_(simclr.head.layers[-1].bias)
    step = simclr.step(batch(), VIEWS, 0, 0.0)
    assert step.chance == pytest.approx(math.log(7))
    assert float(step.loss.detach()) == pytest.approx(step.chance, rel=1e-5)
    assert float(step.logs["similarity"]) == pytest.approx(1, abs=1e-5)


def test_every_parameter_learns():
    simclr = method()
    simclr.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in simclr.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) for p in simclr.encoder.parameters()) > 0


def test_a_few_steps_tell_slices_apart():
    simclr, slices = method(), batch(8)
    slices.images = slices.images * 0.1 + slices.positions[:, None, None, None] * 4
    views = ViewMaker(ViewSettings(brightness=0, contrast=0, gamma=0, noise=0), SIZE)
    optimiser = torch.optim.Adam(simclr.parameters(), 0.01)
    losses = []
    for seed in range(40):
        optimiser.zero_grad()
        step = simclr.step(slices, views, seed, 0.0)
        step.loss.backward()
        optimiser.step()
        losses.append(float(step.loss.detach()))
    assert step.chance is not None
    assert np.mean(losses[-5:]) < 0.7 * step.chance


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": -1}, {"threshold": 0.1}])
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(SimCLR.Settings, wrong)
