import os

import pytest
import torch
from versus.measuring import cores, interleaved, rate, ratio, run

from poscon.errors import PosconError


def test_cores_are_given_back() -> None:
    before = os.sched_getaffinity(0), torch.get_num_threads()
    with cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before


def test_more_cores_than_there_are() -> None:
    with pytest.raises(PosconError, match="cores asked for"), cores(10_000):
        pass


def test_what_a_user_can_mend_is_one_line() -> None:
    def main() -> None:
        raise PosconError("no such folder")

    with pytest.raises(SystemExit, match=r"^error: no such folder$"):
        run(main)


def test_every_measure_has_its_turn_in_every_round() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    found = interleaved({"a": lambda: measure("a"), "b": lambda: measure("b")}, rounds=2)
    assert calls == ["a", "b", "a", "b"]
    assert found == {"a": [1, 3], "b": [2, 4]}


def test_ratio_is_taken_within_a_round() -> None:
    """A round that is slow for both changes nothing."""
    assert ratio([10, 1, 30], [5, 0.5, 10]) == 2


def test_rate_is_of_as_many_as_are_asked_for() -> None:
    done: list[str] = []
    assert rate(lambda: done.append("work"), 0, least=3) > 0
    assert done == ["work"] * 3


def test_rate_counts_what_was_finished() -> None:
    done: list[str] = []
    assert rate(lambda: done.append("work"), 0, lambda: done.append("finish")) > 0
    assert done == ["work", "finish"]
