import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.comparison.folds import (
    Fold,
    check_fold_files,
    check_leakage,
    draw_labelled,
    make_folds,
    shared_scans,
)
from poscon.errors import PosconError


@dataclass(frozen=True)
class FakeCase:
    """What folds look at of a case."""

    id: str
    subject: str
    labelled: bool = True
    pixels: str = ""

    @property
    def pixels_sha256(self) -> str:
        return self.pixels or self.id


class FakeStore:
    path = Path("store")

    def __init__(self, cases: list[FakeCase]) -> None:
        self.cases = cases

    def select(self, names: list[str], *, where: str) -> list[FakeCase]:
        found = [c for c in self.cases if c.id in names or c.subject in names]
        if unknown := set(names) - {c.id for c in found} - {c.subject for c in found}:
            raise PosconError(f"{where}: unknown {sorted(unknown)}")
        return found


def store_of(n: int, unlabelled: int = 0) -> Any:
    cases = [FakeCase(f"s{i:02d}_f{f}", f"s{i:02d}") for i in range(n) for f in (1, 2)]
    cases += [FakeCase(f"u{i:02d}_f1", f"u{i:02d}", labelled=False) for i in range(unlabelled)]
    return FakeStore(cases)


def plan_of(**told: Any) -> Any:
    return SimpleNamespace(**{"folds": 2, "seed": 0, "order": "random", **told})


@given(n=st.integers(2, 23), k=st.integers(2, 7), seed=st.integers(0, 9), u=st.integers(0, 4))
def test_drawn_folds_test_everybody_once_and_never_learn_from_who_is_tested(
    n: int, k: int, seed: int, u: int
) -> None:
    store = store_of(n, u)
    if k > n:
        with pytest.raises(PosconError, match=f"{k} folds of {n} labelled subjects"):
            make_folds(plan_of(folds=k, seed=seed), store, Path())
        return
    folds = make_folds(plan_of(folds=k, seed=seed), store, Path())
    tested = [subject for fold in folds for subject in fold.test]
    assert sorted(tested) == [f"s{i:02d}" for i in range(n)]
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    everyone = {case.subject for case in store.cases}
    for fold in folds:
        assert set(fold.train) == everyone - set(fold.test)  # the unlabelled always among them
    assert folds == make_folds(plan_of(folds=k, seed=seed), store, Path())


def test_another_seed_draws_other_folds() -> None:
    store = store_of(20)
    tests = {make_folds(plan_of(seed=seed), store, Path())[0].test for seed in range(5)}
    assert len(tests) == 5


@given(seed=st.integers(0, 50), draw=st.integers(0, 5), small=st.integers(1, 5))
def test_the_fewer_are_among_the_more_and_all_frames_of_a_subject_come(
    seed: int, draw: int, small: int
) -> None:
    store, plan = store_of(9, 3), plan_of(seed=seed)
    fold = Fold(0, (*(f"s{i:02d}" for i in range(7)), "u00"), ("s07", "s08"))
    few = draw_labelled(plan, fold, small, draw, store)
    more = draw_labelled(plan, fold, small + 2, draw, store)
    assert set(few) <= set(more)
    assert len({c.subject for c in few}) == small
    assert len(few) == 2 * small
    assert {c.subject for c in more} <= set(fold.train) - {"u00"}


def test_draws_differ() -> None:
    store = store_of(12)
    fold = Fold(0, tuple(f"s{i:02d}" for i in range(12)), ())
    drawn = [tuple(draw_labelled(plan_of(), fold, 2, draw, store)) for draw in range(6)]
    assert len(set(drawn)) > 3


def test_listed_subjects_are_taken_in_the_order_of_the_list(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(
        json.dumps({"train": ["s03", "s00", "s02"], "test": ["s01"]})
    )
    files = SimpleNamespace(train="split.json:train", test="split.json:test")
    plan = plan_of(folds=(files,), order="listed")
    store = store_of(4)
    (fold,) = make_folds(plan, store, tmp_path)
    assert (fold.train, fold.test) == (("s03", "s00", "s02"), ("s01",))
    (tmp_path / "scans.csv").write_text("image\na.nii\n")
    assert make_folds(plan, store, tmp_path / "scans.csv") == [fold]
    check_fold_files(plan, tmp_path / "scans.csv")
    for draw in range(2):
        assert {c.subject for c in draw_labelled(plan, fold, 2, draw, store)} == {"s03", "s00"}


def test_more_labelled_than_there_are() -> None:
    fold = Fold(1, ("s00", "s01", "u00"), ("s02",))
    with pytest.raises(PosconError, match="labelled = 3: fold 1 has 2 labelled subjects"):
        draw_labelled(plan_of(), fold, 3, 0, store_of(3, 1))


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([{"test": ["s00"]}, {"test": ["s01", "s00"]}], "s00 is in the test sets of folds 0 and 1"),
        (
            [{"test": ["s00"], "train": ["s01", "s00"]}],
            "s00 is in the training set",
        ),
        ([{"test": ["s09"]}], "unknown"),
        ([{"test": ["u00"]}], "u00 has no label map"),
        ([{"test": ["s00", "s01", "s02", "u00"]}], "no subject is left"),
    ],
)
def test_listed_folds_that_contradict_themselves(
    folds: list[dict[str, list[str]]], words: str, tmp_path: Path
) -> None:
    files = []
    for i, parts in enumerate(folds):
        places: dict[str, str | None] = {"train": None}
        for part, names in parts.items():
            (tmp_path / f"{part}{i}.json").write_text(json.dumps(names))
            places[part] = f"{part}{i}.json"
        files.append(SimpleNamespace(**places))
    with pytest.raises(PosconError, match=words):
        make_folds(plan_of(folds=tuple(files)), store_of(3, 1), tmp_path)


def test_the_same_scan_under_another_name_is_found() -> None:
    test: Any = [FakeCase("a", "a", pixels="x"), FakeCase("b", "b", pixels="y")]
    roles: Any = {
        "labelled": [FakeCase("c", "c", pixels="z")],
        "pre-training": [FakeCase("d", "d", pixels="y"), FakeCase("e", "e", pixels="y")],
    }
    assert shared_scans(test, roles) == ["b = d (pre-training)", "b = e (pre-training)"]
    with pytest.raises(PosconError, match=r"fold 4: 2 scan\(s\).*b = d \(pre-training\)"):
        check_leakage(test, roles, Fold(4, (), ()))
    check_leakage(test[:1], roles, Fold(4, (), ()))
