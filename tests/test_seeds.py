"""Named streams against the reference generator, fixed values and each other."""

import hashlib
from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.seeds import stream

SEEDS = st.integers(0, 2**63 - 1)
WORDS = st.text(max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
NAMES = st.tuples(WORDS, st.lists(WORDS | NUMBERS, max_size=3)).map(lambda n: (n[0], *n[1]))


class SplitMix64:
    """The generator as it is published: a state that grows by a constant, and a mixing function."""

    def __init__(self, state: int) -> None:
        self.state = state

    def __next__(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)


def output(state: int, k: int) -> int:
    """Output ``k`` of the generator; the state grows evenly, so the outputs before are left out."""
    return next(SplitMix64((state + k * 0x9E3779B97F4A7C15) % 2**64))


def test_the_reference_gives_the_published_outputs():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    generator = SplitMix64(0)
    assert [next(generator) for _ in range(3)] == published
    assert [output(0, k) for k in range(3)] == published


@settings(deadline=None)
@given(SEEDS, WORDS, NUMBERS, WORDS)
def test_a_stream_is_chained_outputs_of_the_reference(seed, first, number, last):
    def hashed(word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")

    x = output(seed, hashed(first))
    assert stream(seed, first) == x >> 1
    x = output(x, number % 2**64)
    assert stream(seed, first, number) == x >> 1
    assert stream(seed, first, number, last) == output(x, hashed(last)) >> 1


def test_streams_have_fixed_values():
    """The same on every platform and in every version of Python."""
    assert stream(0, "view") == 0x11BB552D078AE648
    assert stream(0, "view", 1) == 0x7F1965EF1E471511
    assert stream(2**63 - 1, "größe", -1, "x") == 0x5A2204DBDC1FE9F4


@settings(deadline=None)
@given(SEEDS, NAMES)
def test_it_is_a_seed_for_torch(seed, name):
    drawn = stream(seed, *name)
    assert 0 <= drawn < 2**63
    torch.Generator().manual_seed(drawn)


@settings(deadline=None, max_examples=200)
@given(SEEDS, st.lists(NAMES, min_size=2, max_size=20, unique=True))
def test_streams_of_different_names_never_collide(seed, names):
    assert len({stream(seed, *name) for name in names}) == len(names)


@settings(deadline=None, max_examples=20)
@given(SEEDS, WORDS)
def test_the_numbers_of_a_name_are_different_streams(seed, word):
    numbers = [(), *((k,) for k in range(-50, 50)), *product(range(8), range(8))]
    assert len({stream(seed, word, *k) for k in numbers}) == len(numbers)


def test_a_number_is_not_its_digits():
    assert stream(0, "view", 1) != stream(0, "view", "1") != stream(0, "view1")


@settings(deadline=None)
@given(st.integers(0, 2**62), WORDS)
def test_neighbouring_seeds_share_no_stream(seed, word):
    here, there = ({stream(s, word, k) for k in range(50)} for s in (seed, seed + 1))
    assert not here & there


@settings(deadline=None)
@given(SEEDS, st.integers(0, 10**7))
def test_views_of_a_step_are_not_those_of_the_next_step(seed, step):
    """Steps are streams of the run's seed, views are streams of the step's seed."""
    steps = [stream(seed, "step", step + k) for k in range(2)]
    views = [stream(of_step, "view", view) for of_step in steps for view in range(2)]
    assert len({*steps, *views}) == 6
