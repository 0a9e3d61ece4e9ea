"""Intervals cover what they claim, tests are those of the textbooks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from poscon.errors import PosconError
from poscon.statistics import Difference, Interval, differences, holm, mean_interval


def test_an_interval_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.8, 0.1, 20)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_clustered_values_is_that_of_a_regression():
    """On a constant, with the CR1 errors of statsmodels, by the sandwich written out."""
    generator = np.random.default_rng(2)
    owner = generator.integers(0, 6, 25)
    values = generator.normal(size=6)[owner] + generator.normal(size=25)
    constant = np.ones((25, 1))
    bread = np.linalg.inv(constant.T @ constant)
    apart = values - values.mean()
    meat = sum((constant[owner == i].T @ apart[owner == i]) ** 2 for i in range(6))
    error = np.sqrt((bread @ meat[:, None] @ bread).item() * 6 / 5)
    found = mean_interval(values, owner.tolist())
    half = stats.t.ppf(0.975, 5) * error
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_a_subject_of_one_value_each_is_no_subject_at_all():
    values = np.random.default_rng(0).normal(size=12)
    assert mean_interval(values, [f"s{i}" for i in range(12)]) == mean_interval(values)


def test_frames_of_one_subject_do_not_make_it_more_certain():
    """Each value thrice: the same interval, where frames taken as subjects would narrow it."""
    values = np.random.default_rng(1).normal(size=15)
    once = mean_interval(values)
    thrice = mean_interval(np.repeat(values, 3), np.repeat(np.arange(15), 3).tolist())
    fooled = mean_interval(np.repeat(values, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert fooled.high - fooled.low < 0.75 * (once.high - once.low)


def coverage(draw, truth, repeats):
    inside = sum(truth in mean_interval(*draw(i)) for i in range(repeats))
    return inside / repeats


@pytest.mark.parametrize(("n", "short"), [(8, 0.04), (10, 0.03), (30, 0.02)])
def test_intervals_cover_what_they_claim(n, short):
    """4000 skewed samples, as Dice is skewed. A bootstrap (BCa) of ten covers 0.90."""

    def draw(i):
        return (np.random.default_rng(i).beta(8, 2, n), None)

    assert 0.95 - short < coverage(draw, 0.8, 4000) < 0.96


def test_intervals_of_clustered_values_cover_and_naive_ones_do_not():
    """25 subjects of one to five frames; frames differ less than subjects."""

    def draw(i, clustered=True):
        generator = np.random.default_rng(i)
        sizes = generator.integers(1, 6, 25)
        owner = np.repeat(np.arange(25), sizes)
        values = generator.normal(size=25)[owner] + 0.2 * generator.normal(size=len(owner))
        return values, owner.tolist() if clustered else None

    assert coverage(draw, 0.0, 2000) == pytest.approx(0.95, abs=0.02)
    assert coverage(lambda i: draw(i, clustered=False), 0.0, 2000) < 0.85


def test_equal_values_have_a_point_and_one_subject_says_nothing():
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5)
    assert mean_interval([0.5]) == Interval(-np.inf, np.inf)
    assert mean_interval([0.5, 0.7], ["one", "one"]) == Interval(-np.inf, np.inf)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")]])
def test_values_that_cannot_be_averaged(values):
    with pytest.raises(PosconError, match=r"no value|not finite"):
        mean_interval(values)


# Holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_by_its_definition(p_values):
    """A hypothesis is rejected at a level if and only if its adjusted p-value is not above it."""
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.2, 0.7, 0.99):
        rejected = set()
        for step, i in enumerate(ordered):  # down from the smallest, until one is not rejected
            if p_values[i] * (len(p_values) - step) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# Differences


def subjects(values):
    return {f"patient{i}": float(v) for i, v in enumerate(values)}


def exact_wilcoxon(apart):
    """The two-sided p-value by going through all signs; no ties, no zeros."""
    ranks = np.abs(apart).argsort().argsort() + 1
    observed = abs(sum(r if d > 0 else -r for r, d in zip(ranks, apart, strict=True)))
    signs = itertools.product((-1, 1), repeat=len(apart))
    sums = [abs(sum(s * r for s, r in zip(row, ranks, strict=True))) for row in signs]
    return np.mean([s >= observed for s in sums])


def test_a_difference_is_that_of_the_subjects():
    generator = np.random.default_rng(5)
    base = generator.uniform(0.5, 0.9, 10)
    better, same = base + generator.uniform(0.01, 0.05, 10), base + generator.normal(0, 0.02, 10)
    found = differences(subjects(base), {"better": subjects(better), "same": subjects(same)})
    for name, values in (("better", better), ("same", same)):
        assert found[name].mean == pytest.approx((values - base).mean())
        assert found[name].interval == mean_interval(values - base)
        assert (found[name].wins, found[name].losses) == (
            (values > base).sum(),
            (values < base).sum(),
        )
        assert found[name].subjects == 10
    p = [exact_wilcoxon(better - base), exact_wilcoxon(same - base)]
    assert [found["better"].p, found["same"].p] == pytest.approx(holm(p))
    assert found["better"].distinguishable
    assert found["better"].of_trainings is None  # nobody told them apart
    assert not found["same"].distinguishable


def test_the_order_of_subjects_does_not_matter():
    base, other = subjects([0.1, 0.5, 0.9]), subjects([0.2, 0.5, 0.7])
    turned = dict(reversed(other.items()))
    assert differences(base, {"m": other}) == differences(base, {"m": turned})


def test_no_difference_at_all():
    base = subjects([0.5, 0.6, 0.7])
    found = differences(base, {"same": base})["same"]
    assert (found.mean, found.p, found.wins, found.losses) == (0, 1, 0, 0)
    assert not found.distinguishable


def test_rounding_is_no_difference():
    base = subjects([0.1] * 12)
    found = differences(base, {"same": {k: v + 1e-16 for k, v in base.items()}})["same"]
    assert (found.mean, found.p, found.wins) == (0, 1, 0)
    assert not found.distinguishable


def test_seldom_is_a_difference_seen_where_there_is_none():
    """Five methods like the baseline: in not many more than 5 % of studies is one set apart."""
    alarms = 0
    for i in range(200):
        generator = np.random.default_rng(i)
        rows = generator.normal(0.8, 0.05, (6, 20))
        methods = {f"m{k}": subjects(row) for k, row in enumerate(rows[1:])}
        found = differences(subjects(rows[0]), methods)
        alarms += any(difference.p < 0.05 for difference in found.values())
    assert alarms / 200 < 0.1


def test_other_subjects_are_refused():
    with pytest.raises(PosconError, match=r"m: not on the subjects .* \(2 only in one .*patient2"):
        differences(subjects([0.1, 0.2]), {"m": {"patient0": 0.1, "patient2": 0.2}})
    with pytest.raises(PosconError, match="not finite"):
        differences(subjects([0.1, 0.2]), {"m": subjects([0.1, float("nan")])})


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda v: np.ptp(v) > 1e-3))
def test_the_interval_of_trainings_is_that_of_a_t_test(apart: list[float]) -> None:
    found = difference(tuple(apart)).of_trainings
    expected = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.slow
def test_trainings_that_differ_by_luck_are_told_apart_as_rarely_as_promised() -> None:
    """None is better, but a training moves all of its subjects: by subjects alone, many are."""
    rng = np.random.default_rng(0)
    by_subjects = by_both = 0
    for _ in range(200):
        luck = rng.normal(0, 0.02, 6)
        apart = luck[:, None] + rng.normal(0, 0.03, (6, 30))
        baseline = {str(i): 0.0 for i in range(apart.size)}
        values = dict(zip(baseline, apart.ravel().tolist(), strict=True))
        found = differences(baseline, {"method": values})["method"]
        by_subjects += found.distinguishable
        told = replace(found, trainings=tuple(apart.mean(1).tolist()))
        by_both += told.distinguishable
    assert by_subjects > 60
    assert by_both < 20


def difference(trainings: tuple[float, ...]) -> Difference:
    return Difference(0.1, Interval(0.05, 0.15), 0.001, 9, 1, 10, trainings)
