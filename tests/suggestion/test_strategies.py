"""What every strategy keeps to, and the simple ones."""

from dataclasses import replace

import numpy as np
import pytest
from suggestion_examples import EACH, SUBJECTS, after, example_pool, rows_of, turn

from poscon.errors import PosconError
from poscon.suggestion import STRATEGIES, find_strategy, known_strategies
from poscon.suggestion.base import Pool, Turns

NESTED = sorted({*STRATEGIES} - {"typical"})
"""Where the choice of a small budget is the beginning of that of a larger one."""
TAKE_TURNS = sorted({*STRATEGIES} - {"typical", "random"})


def choose(name: str, pool: Pool, budget: int, seed: int = 0) -> list[int]:
    return rows_of(find_strategy(name)().choose(pool, budget, seed))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("labelled", [0, 11])
def test_chooses_different_rows_without_labels(name: str, labelled: int) -> None:
    pool = example_pool(labelled=labelled)
    everything = int((~pool.labelled).sum())
    for budget in (1, 8, everything):
        rows = choose(name, pool, budget)
        assert len(rows) == len(set(rows)) == budget
        assert not pool.labelled[rows].any()


@pytest.mark.parametrize("name", STRATEGIES)
def test_follows_from_the_seed(name: str) -> None:
    pool = example_pool(labelled=5)
    assert choose(name, pool, 12, 3) == choose(name, pool, 12, 3)
    if name in ("random", "spread", "ends"):
        assert choose(name, pool, 12, 3) != choose(name, pool, 12, 4)


@pytest.mark.parametrize("name", NESTED)
def test_a_larger_budget_begins_with_a_smaller_one(name: str) -> None:
    pool = example_pool(labelled=4)
    whole = choose(name, pool, 20)
    for budget in (1, 5, 13):
        assert choose(name, pool, budget) == whole[:budget]


@pytest.mark.parametrize("name", sorted({*NESTED} - {"coverage", "hybrid"}))
def test_to_choose_twice_is_to_choose_more(name: str) -> None:
    """For coverage the slices that are to be covered become fewer, so the rest may differ."""
    pool = example_pool()
    whole = choose(name, pool, 20)
    assert choose(name, after(pool, whole[:9]), 11) == whole[9:]


@pytest.mark.parametrize("name", TAKE_TURNS)
def test_no_subject_gets_a_second_choice_before_all_have_one(name: str) -> None:
    pool = example_pool(labelled=9)
    rows = choose(name, pool, 25)
    for place, row in enumerate(rows):
        assert row in turn(pool, rows[:place])
    fresh = choose(name, example_pool(), SUBJECTS)
    assert sorted(example_pool().subjects[fresh]) == list(range(SUBJECTS))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_choice_has_a_reason(name: str) -> None:
    choices = find_strategy(name)().choose(example_pool(labelled=3), 10, 0)
    assert all(choice.reason and "\n" not in choice.reason for choice in choices)


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if not find_strategy(name).needs_positions]
)
def test_whole_subjects_can_be_chosen(name: str) -> None:
    pool = example_pool()
    n = len(pool)
    labelled = np.arange(n) < 3
    subjects = replace(pool, subjects=np.arange(n), middles=None, labelled=labelled)
    rows = choose(name, subjects, 6)
    assert len(set(rows)) == 6
    assert min(rows) >= 3


def test_random_gives_every_slice_the_same_chance() -> None:
    pool = example_pool(labelled=10)
    counts = np.zeros(len(pool))
    rounds = 3000
    for seed in range(rounds):
        counts[choose("random", pool, 5, seed)] += 1
    assert not counts[pool.labelled].any()
    expected = rounds * 5 / (~pool.labelled).sum()
    deviation = (counts[~pool.labelled] - expected) / np.sqrt(expected)
    assert np.abs(deviation).max() < 4


def test_uncertain_takes_the_most_uncertain_of_those_that_have_their_turn() -> None:
    pool = example_pool(labelled=6)
    assert pool.uncertainty is not None
    expected: list[int] = []
    for _ in range(20):
        expected.append(max(turn(pool, expected), key=lambda row: pool.uncertainty[row]))
    assert choose("uncertain", pool, 20) == expected


def test_turns_go_by_what_is_labelled_too() -> None:
    pool = example_pool()
    labelled = pool.labelled.copy()
    labelled[: 2 * EACH - 1] = True  # all of the first subject and all but one of the second
    turns = Turns(replace(pool, labelled=labelled))
    assert turns.rows().tolist() == list(range(2 * EACH, SUBJECTS * EACH))
    assert turns.done == 2 * EACH - 1
    assert turns.before(2 * EACH) == "a new subject"
    assert turns.before(2 * EACH - 1) == f"a subject with {EACH - 1} before it"


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(PosconError, match=r"strategy 'sprad' is unknown \(did you mean 'spread'"):
        find_strategy("sprad")
    assert set(known_strategies().values()) == {"poscon"}
