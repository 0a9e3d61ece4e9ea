"""Positions of `spread` and `ends`."""

from dataclasses import replace

import numpy as np
import pytest
from suggestion_examples import rows_of

from poscon.suggestion.base import Pool
from poscon.suggestion.ends import Ends
from poscon.suggestion.spread import Spread, even_position


def many(subjects: int, each: int, frames: int = 1) -> Pool:
    """Subjects with some cases each, which have their slices at the same positions."""
    n = subjects * frames * each
    return Pool(
        subjects=np.repeat(np.arange(subjects), frames * each),
        labelled=np.zeros(n, bool),
        middles=np.tile((np.arange(each) + 0.5) / each, subjects * frames),
    )


@pytest.mark.parametrize("budget", [5, 12, 30])
def test_positions_are_stratified(budget: int) -> None:
    """Parts of the stack of twice the mean distance always have a choice."""
    pool = many(40, 200)
    for seed in range(10):
        rows = rows_of(Spread().choose(pool, budget, seed))
        assert pool.middles is not None
        at = np.sort(pool.middles[rows])
        gaps = np.diff([*at, at[0] + 1])
        assert gaps.max() < 2 / budget
        assert len(set(pool.subjects[rows])) == budget


@pytest.mark.parametrize("subjects", [5, 8, 13, 21])
def test_a_subject_gives_distant_slices(subjects: int) -> None:
    """Also where the number of subjects brings the sequence of positions back to its start."""
    pool = many(subjects, 100)
    rows = rows_of(Spread().choose(pool, 2 * subjects, 1))
    assert pool.middles is not None
    apart = [np.ptp(pool.middles[rows][pool.subjects[rows] == s]) for s in range(subjects)]
    assert np.median(apart) > 0.3


def test_frames_of_one_subject_are_drawn_from_alike() -> None:
    pool = many(60, 10, frames=4)
    rows = np.array(rows_of(Spread().choose(pool, 60, 0)))
    frames = np.bincount(rows // 10 % 4, minlength=4)
    assert frames.min() >= 5


def test_positions_go_on_after_what_is_labelled() -> None:
    pool = many(30, 50)
    rows = rows_of(Spread().choose(pool, 30, 0))
    labelled = np.zeros(len(pool), bool)
    labelled[rows[:10]] = True
    assert rows_of(Spread().choose(replace(pool, labelled=labelled), 20, 0)) == rows[10:]


def test_scans_that_reach_the_position_come_first() -> None:
    """Half of the subjects show the lower half of the axis, the others the upper half."""
    n, each = 20, 10
    upper = np.repeat(np.arange(n) % 2, each)
    pool = Pool(
        subjects=np.repeat(np.arange(n), each),
        labelled=np.zeros(n * each, bool),
        middles=(np.tile((np.arange(each) + 0.5) / each, n) + upper) / 2,
        edges=np.stack([upper / 2, (upper + 1) / 2], axis=1),
    )
    for seed in range(5):
        choices = Spread().choose(pool, 10, seed)
        assert pool.middles is not None
        for choice in choices:
            target = float(choice.reason.split()[-1])
            assert abs(pool.middles[choice.row] - target) < 0.5 / each
        assert len({int(pool.subjects[choice.row]) for choice in choices}) == 10


def test_half_of_ends_lies_in_the_outer_third() -> None:
    pool = many(400, 120)
    rows = rows_of(Ends().choose(pool, 400, 0))
    assert pool.middles is not None
    at = pool.middles[rows]
    assert np.mean(at < 1 / 6) == pytest.approx(1 / 4, abs=0.01)
    assert np.mean(at > 5 / 6) == pytest.approx(1 / 4, abs=0.01)


def test_ends_places_shares_without_a_gap() -> None:
    ends = Ends()
    shares = np.linspace(0, 1, 1001)[:-1]
    places = np.array([ends.place(share) for share in shares])
    assert places[0] == 0
    assert (np.diff(places) > 0).all()
    assert np.diff(places).max() <= (4 / 3 + 1e-9) / 1000
    assert ends.place(1 - 1e-12) == pytest.approx(1)


def test_the_sequence_stays_in_the_stack() -> None:
    assert all(0 <= even_position(k, 0.999) < 1 for k in range(1000))
