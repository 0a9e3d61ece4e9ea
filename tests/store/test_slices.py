"""Tables of slices, and the draw of labelled slices."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.store.slices import draw_slices, read_slice_table


@dataclass
class Record:
    """What the draw knows of a case."""

    id: str
    subject: str
    labelled_slice_numbers: np.ndarray


def records(*counts: int) -> list[Record]:
    """A subject with one case for each number of slices."""
    return [Record(f"s{i}_ED", f"s{i}", np.arange(n)) for i, n in enumerate(counts)]


def size(drawn) -> int:
    return sum(map(len, drawn.values()))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 2**31))
def test_draws_are_nested_and_as_large_as_asked(counts, seed):
    cases, before = records(*counts), set()
    for n in range(sum(counts) + 1):
        drawn = draw_slices(cases, n, seed)
        pairs = {(case, number) for case, numbers in drawn.items() for number in numbers}
        assert len(pairs) == size(drawn) == n
        assert before <= pairs
        before = pairs
    with pytest.raises(PosconError, match=f"there are {sum(counts)} labelled slices"):
        draw_slices(cases, sum(counts) + 1, seed)


@pytest.mark.parametrize("n", [1, 4, 5, 7, 20, 33, 50])
@pytest.mark.parametrize("seed", range(5))
def test_subjects_have_equally_many(n, seed):
    drawn = draw_slices(records(10, 11, 12, 13, 14), n, seed)
    counts = Counter(len(numbers) for numbers in drawn.values())
    counts[0] = 5 - len(drawn)
    found = [n for n, times in counts.items() if times]
    assert max(found) - min(found) <= 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("subjects", [1, 3, 5, 8])
def test_positions_are_spread_evenly(seed, subjects):
    """No gap of the drawn positions is much larger than of evenly spaced ones, for any number."""
    n_slices = 200
    for a_subject in (1, 2, 4, 8):
        drawn = draw_slices(records(*[n_slices] * subjects), subjects * a_subject, seed)
        everywhere = np.sort(np.concatenate([np.array(v) for v in drawn.values()])) / n_slices
        alone = [np.sort(np.array(v)) / n_slices for v in drawn.values()]
        for places in (everywhere, *alone):
            gaps = np.diff([0, *places, 1])
            assert gaps.max() <= 3.0 / len(places)


def test_only_labelled_slices_are_drawn_and_both_frames_of_a_subject():
    cases = [Record("a_ED", "a", np.array([3, 7])), Record("a_ES", "a", np.array([0]))]
    cases.append(Record("b", "b", np.array([], int)))
    assert draw_slices(cases, 3, 0) == {"a_ED": (3, 7), "a_ES": (0,)}


def test_another_seed_draws_others():
    drawn = [draw_slices(records(30, 30, 30), 6, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_table_is_read_whatever_the_order(tmp_path):
    path = tmp_path / "slices.csv"
    path.write_text("\ufeffslice,why,case\n4,x,a\n 1 ,y,a\n4,z,a\n0,,b\n", encoding="utf-8")
    assert read_slice_table(path) == {"a": (1, 4), "b": (0,)}
