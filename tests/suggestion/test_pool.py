from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from poscon.store.manifest import AxisRecord
from poscon.store.store import Store
from poscon.suggestion.pool import LEVELS, Slices, unit


def test_slices_of_cases(store: Path) -> None:
    cases = Store(store).cases[1:4]
    slices = Slices.of(cases)
    assert len(slices.case_of) == sum(case.shape[0] for case in cases)
    row = cases[0].shape[0] + 2
    assert (slices.case_of[row], slices.slice_of[row]) == (1, 2)
    assert slices.middles[row] == pytest.approx(cases[1].positions[2] - 0.5 / cases[1].shape[0])
    assert slices.subject_names[slices.subject_of[row]] == cases[1].subject
    assert slices.labelled.all()


def test_learned_positions_are_shares_of_all_slices(store: Path) -> None:
    short, long = (replace(case, axis=None) for case in Store(store).cases[:2])
    n, m = short.shape[0], long.shape[0]
    # the first volume lies within the second, and runs the other way
    short = replace(short, axis=AxisRecord(9.0 + n, 10.0, True, 1.0, True))
    long = replace(long, axis=AxisRecord(0.0, 10.0 * (m - 1), False, 1.0, True))
    slices = Slices.of([short, long], "learned")
    every = slices.positions
    assert every[:n].tolist() == list(range(9 + n, 9, -1))
    for at, share in zip(every, slices.middles, strict=True):
        before, same = (every < at - 1e-9).sum(), (np.abs(every - at) < 1e-9).sum()
        assert share == pytest.approx((before + same / 2) / (n + m))
    assert slices.edges is not None
    assert slices.edges[-1].tolist() == [0, 1]
    low, high = slices.edges[0]
    assert (low < slices.middles[:n]).all()
    assert (slices.middles[:n] < high).all()
    assert slices.pool(None, None).edges is slices.edges


def test_a_subject_is_its_mean_features_by_level() -> None:
    counts = [8, 3]
    n = sum(counts)
    features = np.random.default_rng(0).standard_normal((n, 4))
    middles = np.concatenate([(np.arange(c) + 0.5) / c for c in counts])
    subjects = np.repeat([0, 1], counts)
    labelled = np.arange(n) == 9
    slices = Slices(
        (),
        subjects,
        np.arange(n),
        ("a", "b"),
        subjects,
        "relative",
        middles,
        middles,
        None,
        labelled,
    )
    pool = slices.subject_pool(features, np.arange(n, dtype=float))
    assert pool.labelled.tolist() == [False, True]
    assert pool.middles is None
    assert pool.uncertainty is not None
    np.testing.assert_allclose(pool.uncertainty, [3.5, 9])
    first = [features[2 * k : 2 * k + 2].mean(axis=0) for k in range(LEVELS)]
    # the middles 1/6, 1/2 and 5/6 leave the second quarter without a slice
    mean = features[8:].mean(axis=0)
    second = [features[8], mean, features[9], features[10]]
    expected = unit(np.stack([np.concatenate(first), np.concatenate(second)]))
    assert pool.embeddings is not None
    np.testing.assert_allclose(pool.embeddings, expected, atol=1e-6)


def test_unit_length() -> None:
    found = unit(np.array([[3.0, 4], [0, 0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], atol=1e-6)
    assert found.dtype == np.float32
