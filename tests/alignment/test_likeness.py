"""Features of slices and the evidence for a shift, against slow references."""

import numpy as np
import pytest

from poscon.alignment.likeness import MeanCurve, compact, discriminant, evidence, resample


def test_evidence_is_what_its_definition_says() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(5, 3)), generator.normal(size=(7, 3))
    squared = [[sum((a - b) ** 2) for b in second] for a in first]
    median = float(np.median(squared))
    cut = np.array([[min(d, median) for d in row] for row in squared])
    expected = []
    for shift in range(-4, 7):
        total = 0.0
        for i in range(5):
            if 0 <= i + shift < 7:
                total += cut.mean() - cut[i, i + shift]
        expected.append(total)
    np.testing.assert_allclose(evidence(first, second)[0], expected, atol=1e-12)
    np.testing.assert_allclose(evidence(second, first)[0], expected[::-1], atol=1e-12)
    turned = evidence(first, second[::-1])
    np.testing.assert_allclose(evidence(first, second)[1], turned[0], atol=1e-12)
    np.testing.assert_allclose(turned[1], expected, atol=1e-12)


def test_evidence_is_largest_where_one_volume_shows_a_part_of_the_other() -> None:
    whole = np.random.default_rng(0).normal(size=(30, 4)).cumsum(axis=0)
    found, _ = evidence(whole[11:20], whole)
    assert found.argmax() - (9 - 1) == 11


def test_slices_that_are_all_alike_give_no_evidence() -> None:
    same = np.ones((6, 2))
    assert (np.stack(evidence(same, same)) == 0).all()


def test_components_do_not_depend_on_the_scale_of_a_feature_nor_on_its_mean() -> None:
    generator = np.random.default_rng(1)
    volumes = [generator.normal(size=(n, 5)) for n in (4, 9, 6)]
    changed = [volume * [1, 1e3, 1, 1e-3, 1] + [0, 7, -2, 0, 1] for volume in volumes]
    for one, other in zip(compact(volumes), compact(changed), strict=True):
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-9)
    lengths = (np.concatenate(compact(volumes)) ** 2).sum(axis=1)
    assert lengths.mean() == pytest.approx(1)


def test_constant_features_have_no_component() -> None:
    assert [x.shape for x in compact([np.ones((4, 3)), np.ones((2, 3))])] == [(4, 0), (2, 0)]


def test_discriminant_keeps_what_tells_levels_apart_and_drops_what_tells_patients_apart() -> None:
    generator = np.random.default_rng(2)
    levels = [np.arange(40.0) for _ in range(6)]
    volumes = []
    for at in levels:
        level, patient = np.sin(at / 6), np.full(40, generator.normal(scale=3))
        volumes.append(np.stack([level + 0.05 * generator.normal(size=40), patient], axis=1))
    projected = np.concatenate(discriminant(volumes, levels, 2.0, np.ones(6, bool)))
    found = np.corrcoef(
        projected[:, np.var(projected, axis=0).argmax()], np.tile(np.sin(levels[0] / 6), 6)
    )
    assert abs(found[0, 1]) > 0.98


def test_mean_curve_is_a_weighted_mean() -> None:
    x, at = [np.array([[1.0], [3.0]]), np.array([[5.0]])], [np.array([0.0, 4.0]), np.array([2.0])]
    curve = MeanCurve(x, at, 2.0)
    for place, value in zip(curve.grid, curve.at(curve.grid)[:, 0], strict=True):
        weights = [np.exp(-0.5 * ((place - c) / 2.0) ** 2) for c in (0.0, 4.0, 2.0)]
        expected = sum(w * v for w, v in zip(weights, (1.0, 3.0, 5.0), strict=True)) / sum(weights)
        assert value == pytest.approx(expected)


def test_resampling_keeps_the_ends_and_interpolates() -> None:
    found = resample(np.array([[0.0], [10.0]]), np.array([0.0, 5.0]), 1.0)
    np.testing.assert_allclose(found[:, 0], [0, 2, 4, 6, 8, 10])
    assert resample(np.ones((1, 3)), np.array([0.0]), 2.5).shape == (1, 3)
