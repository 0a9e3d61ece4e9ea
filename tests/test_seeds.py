import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.seeds import mix_seed

SEEDS = st.integers(0, 2**63 - 1)
STREAMS = st.integers(0, 10**7)


def test_it_is_splitmix64():
    """The first outputs of the reference generator from state 0, less the last bit."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mix_seed(0, stream) for stream in range(3)] == [value >> 1 for value in published]


@settings(deadline=None)
@given(SEEDS, STREAMS)
def test_it_is_a_seed_for_torch(seed, stream):
    mixed = mix_seed(seed, stream)
    assert 0 <= mixed < 2**63
    torch.Generator().manual_seed(mixed)


@settings(deadline=None)
@given(SEEDS)
def test_streams_of_a_seed_differ(seed):
    assert len({mix_seed(seed, stream) for stream in range(200)}) == 200


@settings(deadline=None)
@given(st.integers(0, 2**62))
def test_neighbouring_seeds_share_no_stream(seed):
    here = {mix_seed(seed, stream) for stream in range(50)}
    there = {mix_seed(seed + 1, stream) for stream in range(50)}
    assert not here & there


@settings(deadline=None)
@given(SEEDS, STREAMS)
def test_views_of_a_step_are_not_those_of_the_next_step(seed, step):
    """Steps are streams of the run's seed, views are streams of the step's."""
    views = [mix_seed(mix_seed(seed, step + k), view) for k in range(2) for view in range(2)]
    assert len(set(views)) == 4
