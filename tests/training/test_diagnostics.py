"""The measures against their definitions, and that measuring leaves no trace."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from poscon.networks.build import build_encoder
from poscon.networks.parts import Encoder
from poscon.networks.settings import NetworkSettings
from poscon.store.store import Store
from poscon.training.data import SliceReader
from poscon.training.diagnostics import (
    Diagnostics,
    alignment,
    effective_rank,
    numbers,
    sample_slices,
    uniformity,
)
from poscon.training.inference import BATCH_PIXELS
from poscon.training.probes import position_retrieval
from poscon.views import ViewMaker, ViewSettings, canvas_size

SIZE = 32


def features(n, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64)


SHAPES = {"n": st.integers(2, 9), "dimension": st.integers(1, 6), "seed": st.integers(0, 10**6)}

# The measures


@given(**SHAPES)
def test_alignment_is_the_mean_squared_distance_of_pairs(n, dimension, seed):
    x, y = features(n, dimension, seed), features(n, dimension, seed + 1)
    total = 0.0
    for a, b in zip(x, y, strict=True):
        total += float((a / a.norm() - b / b.norm()).norm()) ** 2
    assert alignment(x, y) == pytest.approx(total / n, abs=1e-12)
    assert alignment(x * 3, y / 7) == pytest.approx(total / n, abs=1e-12)


def test_alignment_is_0_for_equal_views_and_4_for_opposite_ones():
    x = features(5, 3, 0)
    assert alignment(x, 2 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)


@given(**SHAPES)
def test_uniformity_is_the_log_mean_over_all_pairs(n, dimension, seed):
    x = features(n, dimension, seed)
    z = [row / row.norm() for row in x]
    terms = [
        math.exp(-2 * float((z[i] - z[j]).norm()) ** 2) for i in range(n) for j in range(n) if i < j
    ]
    expected = math.log(sum(terms) / len(terms))
    assert uniformity(x) == pytest.approx(expected, abs=1e-9)
    assert uniformity(5 * x) == pytest.approx(expected, abs=1e-9)
    turn = torch.linalg.qr(features(dimension, dimension, seed + 1)).Q
    assert uniformity(x @ turn) == pytest.approx(expected, abs=1e-9)


def test_uniformity_is_0_at_one_point_and_falls_as_slices_spread():
    one = torch.ones(6, 4, dtype=torch.float64)
    near, far = one + features(6, 4, 0) * 0.1, one + features(6, 4, 0)
    assert uniformity(one) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.zeros(6, 4)) == 0
    assert uniformity(far) < uniformity(near) < 0


@given(**SHAPES)
def test_effective_rank_is_that_of_the_definition(n, dimension, seed):
    x = features(n, dimension, seed)
    eigenvalues = np.linalg.eigvalsh((x @ x.T if n < dimension else x.T @ x).numpy())
    values = np.sqrt(np.maximum(eigenvalues, 0))
    shares = [v / values.sum() for v in values if v > 0]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(x) == pytest.approx(expected, rel=1e-5)
    assert 1 - 1e-9 <= effective_rank(x) <= min(n, dimension) + 1e-9


def test_effective_rank_counts_directions():
    assert effective_rank(torch.eye(5)[[0, 1, 2, 0, 1, 2]]) == pytest.approx(3)
    assert effective_rank(features(9, 1, 0) @ features(1, 6, 1)) == pytest.approx(1)
    p, q = 0.75, 0.25
    two = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    assert effective_rank(two) == pytest.approx(math.exp(-p * math.log(p) - q * math.log(q)))
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_effective_rank_sees_one_point_where_centred_features_would_be_noise():
    point = torch.ones(40, 20, dtype=torch.float64)
    collapsed = point + 1e-3 * features(40, 20, 0)
    assert effective_rank(collapsed) < 1.1
    assert effective_rank(collapsed - collapsed.mean(0)) > 10


# The sample


def reader_of(*cases):
    """A reader of cases without pixels, each given by subject and number of slices."""
    return SliceReader(
        None,
        [
            SimpleNamespace(
                subject=name,
                shape=(n, 1, 1),
                positions=np.arange(1, n + 1) / n,
                ranges={},
                phase=None,
            )
            for name, n in cases
        ],
        SIZE,
    )


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 300)), min_size=2, max_size=9),
    st.integers(0, 10**6),
)
def test_sample_is_even_over_subjects_and_follows_the_seed(cases, seed):
    reader = reader_of(*cases)
    sample = sample_slices(reader, seed)
    np.testing.assert_array_equal(sample, sample_slices(reader, seed))
    assert 2 <= len(sample) == len(set(sample.tolist()))
    assert len(sample) <= max(16, min(256, len(reader) // 4))
    names = [cases[case][0] for case in reader.case_of]
    taken = {name: [names[i] for i in sample].count(name) for name in names}
    most = max(taken.values())
    for name, count in taken.items():
        assert count == min(most, names.count(name))


def test_sample_of_many_subjects_is_of_32():
    reader = reader_of(*((f"s{i}", 60) for i in range(80)))
    sample, other = sample_slices(reader, 0), sample_slices(reader, 1)
    subjects = reader.case_of[sample]
    assert len(sample) == 256
    assert np.unique(subjects, return_counts=True)[1].tolist() == [8] * 32
    assert len(set(reader.slice_of[sample])) > 30  # not always the same level
    assert set(sample) != set(other)
    assert set(subjects) != set(reader.case_of[other])


def test_sample_is_a_quarter_of_a_small_store_but_not_nothing():
    assert len(sample_slices(reader_of(("a", 100), ("b", 100)), 0)) == 50
    assert len(sample_slices(reader_of(("a", 2)), 0)) == 2
    assert len(sample_slices(reader_of(*((f"s{i}", 1) for i in range(40))), 0)) == 32


# What is logged


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=3, levels=2))
    images = torch.randn(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # statistics that are not those of a fresh network
        encoder(images)
    return encoder


def diagnostics(encoder, store, seed=0, subjects=None, views=None):
    opened = Store(store)
    views = ViewMaker(views or ViewSettings(), SIZE)
    cases = opened.cases[:subjects]
    return Diagnostics(
        encoder, SliceReader(opened, cases, canvas_size(SIZE, views.settings)), views, seed
    )


def test_values_are_those_of_the_middle_of_the_slices(encoder, store):
    look = diagnostics(encoder, store)
    values = look()
    reader = SliceReader(Store(store), Store(store).cases, SIZE)
    encoder.eval()
    with torch.no_grad():
        maps = encoder(reader.centred(look.sample).images.float())[-1]
    encoder.train()
    pooled = maps.mean(dim=(2, 3)).double()
    assert values["uniformity"] == pytest.approx(uniformity(pooled), rel=1e-4)
    assert values["effective_rank"] == pytest.approx(effective_rank(pooled), rel=1e-4)
    subjects = [reader.cases[case].subject for case in reader.case_of[look.sample]]
    positions = torch.from_numpy(reader.positions[look.sample])
    found = position_retrieval(pooled, positions, subjects)
    assert values["retrieval_error"] == pytest.approx(found.error)
    assert values["retrieval_chance"] == pytest.approx(found.chance)
    assert values["alignment"] > 0
    assert len(values) == 5


def test_the_batch_does_not_matter(encoder, store, monkeypatch):
    still = {"rotation": 0, "scale": (1, 1), "shift": 0, "elastic": 0, "brightness": 0}
    still |= {"contrast": 0, "gamma": 0, "noise": 0}
    look = diagnostics(encoder, store, views=ViewSettings(**still))
    values = look()
    assert values["alignment"] == pytest.approx(0, abs=1e-9)  # both views are the slice itself
    monkeypatch.setitem(BATCH_PIXELS, "cpu", 5 * look.reader.canvas**2)
    assert look() == pytest.approx(values, rel=1e-4, abs=1e-9)


def test_measuring_leaves_no_trace(encoder, store):
    encoder.blocks[0].eval()
    modes = [module.training for module in encoder.modules()]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    look = diagnostics(encoder, store)
    torch.rand(7)  # a state that no seed leaves
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    values = look()
    with torch.autocast("cpu", torch.bfloat16):
        assert look() == values
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)
    assert [module.training for module in encoder.modules()] == modes
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in encoder.parameters())
    encoder.train()


def test_values_follow_the_seed(encoder, store):
    assert diagnostics(encoder, store)() == diagnostics(encoder, store)()
    other = diagnostics(encoder, store, seed=1)()
    assert other["alignment"] != diagnostics(encoder, store)()["alignment"]
    assert other["effective_rank"] != diagnostics(encoder, store)()["effective_rank"]


def test_what_is_not_defined_is_left_out(encoder, store):
    values = diagnostics(encoder, store, subjects=1)()
    assert values.keys() == {"alignment", "uniformity", "effective_rank"}
    torch.manual_seed(0)
    broken = build_encoder(NetworkSettings(width=2, levels=2))
    torch.nn.init.constant_(broken.blocks[0][0].weight, torch.nan)
    assert diagnostics(broken, store)() == {}


def test_rows_become_numbers():
    rows = [{"step": "0", "loss": ""}, {"step": "12", "loss": "0.25"}]
    assert numbers(rows) == [{"step": 0}, {"step": 12, "loss": 0.25}]
