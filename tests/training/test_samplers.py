"""Samplers, against what they promise."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.training.samplers import SAMPLERS, Balanced, Stratified, Uniform


def volumes(counts: list[int], subjects: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions and subjects of the slices of volumes, one a subject unless told otherwise."""
    positions = np.concatenate([np.arange(1, n + 1) / n for n in counts]).astype(np.float32)
    return positions, np.repeat(range(len(counts)) if subjects is None else subjects, counts)


counts = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@pytest.mark.parametrize("name", SAMPLERS)
@given(counts, st.integers(1, 20), st.integers(0, 2**32))
def test_a_step_is_a_function_of_the_seed_in_any_order(name, counts, batch_size, seed):
    positions, subjects = volumes(counts)
    size = min(batch_size, len(positions))
    one, other = (SAMPLERS[name](positions, subjects, size, seed) for _ in range(2))
    steps = range(2 * one.epoch_steps + 1)
    forward = [one(step) for step in steps]
    backward = [other(step) for step in reversed(steps)][::-1]
    for indices, again in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(indices, again)
        assert indices.shape == (size,)
        assert 0 <= indices.min() <= indices.max() < len(positions)


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_seed_gives_other_batches(name):
    data = volumes([20] * 10)
    assert not np.array_equal(SAMPLERS[name](*data, 16, 0)(3), SAMPLERS[name](*data, 16, 1)(3))


@pytest.mark.parametrize("sampler", [Uniform, Stratified])
@given(counts, st.integers(1, 20))
def test_every_slice_at_most_once_an_epoch(sampler, counts, batch_size):
    positions, subjects = volumes(counts)
    size = min(batch_size, len(positions))
    drawn = sampler(positions, subjects, size, 5)
    for epoch in range(3):
        steps = range(epoch * drawn.epoch_steps, (epoch + 1) * drawn.epoch_steps)
        seen = np.concatenate([drawn(step) for step in steps])
        assert len(set(seen)) == len(seen) == len(positions) // size * size


@pytest.mark.parametrize("sampler", [Uniform, Stratified])
def test_what_an_epoch_leaves_out_is_in_another(sampler):
    drawn = sampler(*volumes([13]), 6, 5)
    seen = {int(index) for step in range(60) for index in drawn(step)}
    assert seen == set(range(13))


@given(counts, st.integers(2, 12), st.integers(0, 99))
def test_stratified_has_one_slice_of_each_stratum(counts, batch_size, seed):
    positions, subjects = volumes(counts)
    size = min(batch_size, len(positions))
    drawn = Stratified(positions, subjects, size, seed)
    batches = np.array([drawn(step) for step in range(drawn.epoch_steps)])
    # every slice of a stratum comes before every slice of the next
    of_strata = positions[batches]
    assert (of_strata[:, :-1].max(axis=0) <= of_strata[:, 1:].min(axis=0)).all()


def test_stratified_batches_are_more_even_than_uniform_ones():
    positions, subjects = volumes([10] * 160)

    def least(sampler: type[Uniform]) -> float:
        """The fewest slices of a batch that any of its slices has near, on average."""
        drawn = sampler(positions, subjects, 32, 0)
        batches = positions[np.array([drawn(step) for step in range(50)])]
        near = (np.abs(batches[:, :, None] - batches[:, None]) < 0.0999).sum(2) - 1
        return float(near.min(axis=1).mean())

    assert least(Stratified) > least(Uniform) + 0.5


@given(counts, st.integers(1, 20), st.integers(0, 99))
def test_balanced_turns_are_even(counts, batch_size, seed):
    positions, subjects = volumes(counts)
    size = min(batch_size, len(positions))
    drawn = Balanced(positions, subjects, size, seed)
    seen = np.concatenate([drawn(step) for step in range(3 * drawn.epoch_steps)])
    of_subjects = Counter(subjects[seen].tolist())
    assert set(of_subjects.values()) <= {len(seen) // len(counts), -(-len(seen) // len(counts))}
    for subject in of_subjects:  # and so are those of its slices
        of_slices = Counter(seen[subjects[seen] == subject].tolist())
        assert max(of_slices.values()) - min(of_slices.values()) <= 1
        if min(of_slices.values()) >= 2:
            assert len(of_slices) == counts[subject]


def test_balanced_takes_turns_in_another_order_every_round():
    positions, subjects = volumes([6] * 10)
    drawn = Balanced(positions, subjects, 10, 0)  # a round a step
    orders = {tuple(subjects[drawn(step)]) for step in range(drawn.epoch_steps)}
    assert len(orders) == drawn.epoch_steps == 6


def test_balanced_counts_subjects_not_volumes():
    """Two frames of one patient are one subject, wherever they stand."""
    data = volumes([4, 6, 8], subjects=[1, 0, 1])
    drawn = Balanced(*data, 4, 0)
    seen = np.concatenate([drawn(step) for step in range(12)])
    assert Counter(data[1][seen].tolist()) == {0: 24, 1: 24}
    assert set(seen) == set(range(18))


def test_balanced_has_no_slice_twice_where_there_are_enough():
    positions, subjects = volumes([5, 9, 30])
    drawn = Balanced(positions, subjects, 15, 3)
    assert all(len(set(drawn(step).tolist())) >= 13 for step in range(40))
    assert Counter(subjects[drawn(0)].tolist()) == {0: 5, 1: 5, 2: 5}
    assert len(set(drawn(0).tolist())) == 15
