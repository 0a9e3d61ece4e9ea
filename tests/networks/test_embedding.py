"""Embeddings by micro-batches: the same gradients, a part's activations, one pass of statistics."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poscon.networks.build import build_encoder
from poscon.networks.embedding import embed
from poscon.networks.heads import HeadSettings, ProjectionHead
from poscon.networks.settings import NetworkSettings


def networks():
    torch.manual_seed(0)
    return nn.ModuleList(
        [
            build_encoder(NetworkSettings(width=2, levels=2)),
            ProjectionHead(8, HeadSettings(dimension=4)),
        ]
    ).double()


def images(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)


def spread_loss(embeddings):
    """Something that takes all embeddings together."""
    return (embeddings @ embeddings.T).exp().sum().log() + embeddings[0].sum()


def by_hand(network, parts):
    """The parts' plain forward passes, all of which are kept."""
    encoder, head = network
    return torch.cat([head(encoder(part)[-1]) for part in parts])


def assert_same_gradients(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=name)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 14), st.integers(2, 15))
def test_in_evaluation_the_gradients_are_those_of_one_batch(n, grad_cache_chunk):
    whole, cached = networks().eval(), networks().eval()
    expected, found = embed(*whole, images(n)), embed(*cached, images(n), grad_cache_chunk)
    torch.testing.assert_close(found, expected)
    spread_loss(expected).backward()
    spread_loss(found).backward()
    assert_same_gradients(cached, whole)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_with_batchnorm_all_is_that_of_the_parts_plain_passes(momentum):
    """Values, gradients, running statistics and the count of batches; three times in a row."""
    plain = networks()
    for norm in plain.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.momentum = momentum
    cached = copy.deepcopy(plain)
    for _ in range(3):
        expected = by_hand(plain, images(10).split([4, 3, 3]))
        found = embed(*cached, images(10), 4)
        assert torch.equal(found, expected)
        spread_loss(expected).backward()
        spread_loss(found).backward()
        assert_same_gradients(cached, plain)
        for name, value in plain.state_dict().items():
            assert torch.equal(cached.state_dict()[name], value), name
    assert {norm.momentum for norm in cached.modules() if hasattr(norm, "momentum")} == {momentum}


def test_at_no_time_are_there_activations_of_two_parts():
    """Kept for the backward pass is the part as it came in, and nothing that comes out of it."""
    encoder, head = networks()
    sizes, kept = [], []
    encoder.blocks[0].register_forward_hook(lambda *args: sizes.append(len(args[2])))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        embeddings = embed(encoder, head, images(12), 5)
    assert sizes == [4, 4, 4]
    assert [tensor.shape for tensor in kept] == [(4, 1, 8, 8)] * 3
    embeddings.sum().backward()
    assert sizes == [4] * 6


@given(st.integers(1, 500), st.integers(2, 200))
def test_no_part_is_too_small_to_normalise(slices, grad_cache_chunk):
    """Of two views a slice, no part is left with a single one."""
    sizes = []

    def encoder(part):
        sizes.append(len(part))
        return [part]

    embed(_Module(encoder), nn.Identity(), torch.zeros(2 * slices, 1), grad_cache_chunk)
    assert sum(sizes) == 2 * slices
    assert min(sizes) >= 2
    assert max(sizes) <= grad_cache_chunk


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_mixed_precision_is_recomputed_as_it_was():
    plain, cached = networks().float(), networks().float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = by_hand(plain, images(8).float().split(4))
        found = embed(*cached, images(8).float(), 4)
    assert found.dtype == torch.bfloat16
    spread_loss(expected.float()).backward()
    spread_loss(found.float()).backward()
    for a, b in zip(cached.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
