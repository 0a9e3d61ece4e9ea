"""Comparisons in rounds: the model of a round chooses the slices that the next one adds."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from poscon.comparison.compare import compare, open_comparison
from poscon.comparison.dry_run import planned_runs
from poscon.comparison.jobs import Job, Schedule, make_schedule
from poscon.comparison.plan import Plan
from poscon.comparison.slices import choose, read_chosen, slice_table
from poscon.errors import PosconError
from poscon.models import Model
from poscon.seeds import stream
from poscon.settings import validate
from poscon.store.store import Store
from poscon.suggestion.disagreement import disagreement

HYBRID = {"name": "hybrid", "init": "pcl"}
PLAN: dict[str, Any] = {
    "data": {"phantom": {"subjects": 4, "seed": 3}, "prepare": {"spacing": 8.0}},
    "pretraining": ["random"],
    "rounds": [2, 4, 7],
    "strategies": ["spread", "uncertain"],
    "metrics": ["dice"],
    "size": 32,
    "precision": 32,
    "network": {"width": 4, "levels": 2},
    "finetune": {"iterations": 2, "batch": 2},
}


def settled(**changes: Any) -> Plan:
    told = {**PLAN, "pretraining": ["random", "pcl"], "folds": 2, **changes}
    return validate(Plan, {key: value for key, value in told.items() if key != "data"})


def scheduled(store: Path, **changes: Any) -> Schedule:
    return make_schedule(settled(**changes), Store(store), store)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "test.json").write_text(json.dumps(["phantom_000"]))
    told = {**PLAN, "folds": [{"test": str(folder / "test.json")}]}
    (folder / "plan.yaml").write_text(json.dumps(told))
    return folder / "plan.yaml"


@pytest.fixture(scope="module")
def done(no_workers: None, plan: Path) -> Path:
    out = plan.parent / "out"
    compare(str(plan), out, device="cpu")
    return out


def in_rounds(out: Path) -> list[Job]:
    jobs = open_comparison(out).schedule.finetunings
    return [job for job in jobs if job.strategy == "uncertain"]


def test_every_round_has_its_row(done: Path) -> None:
    with (done / "results.csv").open(newline="") as file:
        found = {(row["labelled_slices"], row["strategy"]) for row in csv.DictReader(file)}
    assert found == {(n, s) for n in ("2", "4", "7") for s in ("spread", "uncertain")}
    assert "except those of uncertain" in (done / "summary.md").read_text()


def test_runs_that_two_rows_share_are_done_once(done: Path) -> None:
    """Both rows have them, in every table; nothing is tested against itself."""
    schedule = open_comparison(done).schedule
    names = [job.name for job in schedule.jobs]
    assert len(names) == len(set(names)) == 5
    assert {path.name for path in (done / "runs").iterdir()} == set(names)
    shared, again, *others = schedule.finetunings
    assert (shared.name, shared.labelled) == (again.name, 2)
    assert [shared.strategy, again.strategy] == ["spread", "uncertain"]
    assert len({job.name for job in others}) == 4
    with (done / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["labelled_slices"] == "2"]
    of_row = {
        name: [{**row, "strategy": ""} for row in rows if row["strategy"] == name]
        for name in ("spread", "uncertain")
    }
    assert of_row["spread"] == of_row["uncertain"] != []
    summary = (done / "summary.md").read_text()
    assert "In the first round uncertain chooses as spread does, so both rows show" in summary
    assert summary.count("the same runs as the baseline") == 1


def test_the_model_of_a_round_chooses_what_the_next_round_adds(done: Path) -> None:
    place = open_comparison(done).place
    store = Store(place.store)
    cases = [case for case in store.cases if case.subject != "phantom_000"]
    before: list[Any] = []
    for job, last in zip(in_rounds(done), (None, *in_rounds(done)), strict=False):
        assert job.slices is not None
        path = done / "slices" / job.slices.table
        chosen = read_chosen(path, cases)
        assert len(chosen) == job.labelled
        assert chosen[: len(before)] == before
        assert {case.subject for case, _ in chosen}.isdisjoint({"phantom_000"})
        if last is None:
            assert chosen == choose(store, cases, "spread", 2, job.settings["seed"])
        else:
            assert job.needs == {last.name}
            again = choose(
                *(store, cases, "uncertain", len(chosen), job.settings["seed"], None, "cpu"),
                model=place.run(last.name),
                before=before,
            )
            assert chosen == again
        before = chosen


def test_the_first_slice_of_a_round_is_the_most_uncertain_of_those_in_turn(done: Path) -> None:
    place = open_comparison(done).place
    store = Store(place.store)
    first, second = in_rounds(done)[:2]
    assert first.slices is not None
    assert second.slices is not None
    cases = [case for case in store.cases if case.subject != "phantom_000"]
    before = read_chosen(done / "slices" / first.slices.table, cases)
    case, number = read_chosen(done / "slices" / second.slices.table, cases)[2]
    (other,) = [c for c in cases if c.id not in {b.id for b, _ in before}]  # has its turn
    model = Model(place.run(first.name), "cpu")
    stack = torch.from_numpy(store.image(other).astype(np.float32))
    seed = stream(second.settings["seed"], "views")
    found = disagreement(model, stack, seed, mirrored=False)
    assert case.id == other.id
    assert number == int(np.argmax(found))


def test_killed_in_the_second_round_it_ends_as_it_would_have(plan: Path, done: Path) -> None:
    before = (done / "results.csv").read_text()
    for job in in_rounds(done)[1:]:
        shutil.rmtree(done / "runs" / job.name)
        assert job.slices is not None
        (done / "slices" / job.slices.table).unlink()
    compare(str(plan), done, device="cpu")
    assert (done / "results.csv").read_text() == before


def test_the_dry_run_names_the_round_of_every_run(plan: Path, done: Path) -> None:
    jobs, runs = open_comparison(done).schedule.jobs, planned_runs(str(plan))
    assert [(j.labelled, j.strategy, j.also) for j in jobs] == [
        (r.labelled, r.strategy, r.also) for r in runs
    ]
    rounds = {(run.strategy, run.labelled): run.round for run in runs}
    assert [rounds["uncertain", n] for n in (4, 7)] == [2, 3]
    assert [rounds["spread", n] for n in (2, 4, 7)] == [1, None, None]
    shared = "2 labelled slices by spread and uncertain, draw 0, round 1"
    assert any(run.name.endswith(shared) for run in runs)
    assert any(run.name.endswith("4 labelled slices by uncertain, draw 0, round 2") for run in runs)


def test_every_row_chooses_for_itself_after_the_first_round(store: Path) -> None:
    jobs = scheduled(store, strategies=["uncertain", HYBRID], rounds=[2, 5], draws=2).jobs
    names = [job.name for job in jobs]
    tables: dict[int, set[str]] = {2: set(), 5: set()}
    of_name = {job.name: job for job in jobs}
    for job in jobs:
        assert all(names.index(name) < names.index(job.name) for name in job.needs)
        if job.slices is None:
            continue
        assert job.labelled is not None
        tables[job.labelled].add(job.slices.table)
        if job.labelled == 2:
            assert job.slices.model is None
            assert job.slices.strategy == {"uncertain": "spread"}.get(job.slices.label, "hybrid")
            continue
        assert job.slices.model is not None
        last = of_name[job.slices.model]
        assert (last.row, last.fold, last.draw, last.labelled) == (job.row, job.fold, job.draw, 2)
    assert len(tables[2]) == 2 * 2 * 2  # strategies, folds, draws
    assert len(tables[5]) == 2 * 2 * 2 * 2  # and initialisations


@pytest.mark.parametrize("strategies", [["uncertain", "spread"], ["patients", "uncertain"]])
def test_the_order_of_rows_does_not_matter_to_what_they_share(
    store: Path, strategies: list[str]
) -> None:
    """In which the name of the run says what chose its slices."""
    schedule = scheduled(store, strategies=strategies, rounds=[2, 5], draws=2)
    first = [j for j in schedule.jobs if (j.strategy, j.labelled) == ("uncertain", 2)]
    assert len(first) == 2 * 2 * 2  # initialisations, folds, draws
    also = tuple(name for name in strategies if name == "spread")
    for job in first:
        assert job.also == also
        assert "-n2-spread-" in job.name
    assert not any(job.also for job in schedule.jobs if job not in first)
    rows = 2 * 2 * 2 * 2 * 2  # and strategies, rounds
    assert len(schedule.finetunings) == rows
    assert len({job.name for job in schedule.finetunings}) == rows - len(first) * len(also)


def test_a_schedule_in_rounds_is_read_as_it_was_written(store: Path) -> None:
    schedule = scheduled(store)
    assert Schedule.from_record(json.loads(json.dumps(schedule.as_record()))) == schedule


def test_a_lost_table_is_named(store: Path, tmp_path: Path) -> None:
    cases = list(Store(store).cases)
    chosen = [(cases[1], 4), (cases[0], 2), (cases[1], 0)]
    (tmp_path / "slices.csv").write_text(slice_table(chosen))
    assert read_chosen(tmp_path / "slices.csv", cases) == chosen
    with pytest.raises(PosconError, match=r"lost\.csv: no such file, but the next round adds to"):
        read_chosen(tmp_path / "lost.csv", cases)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labelled_slices": [3]}, "give either labelled .* or rounds"),
        ({"labelled": [1]}, "give either labelled .* or rounds"),
        ({"rounds": [4, 2]}, "two or more rising numbers"),
        ({"rounds": [2, 2]}, "two or more rising numbers"),
        ({"rounds": [2]}, "two or more rising numbers"),
        ({"rounds": []}, "two or more rising numbers"),
        ({"strategies": ["spread"]}, "rounds has no effect.* as uncertain and hybrid do"),
        ({"strategies": None}, "rounds has no effect"),
        ({"strategies": ["uncertian"]}, "'uncertian' is unknown .did you mean 'uncertain'"),
        ({"strategies": ["hybrid"]}, "hybrid needs an encoder"),
    ],
)
def test_what_rounds_cannot_mean_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PosconError, match=words):
        settled(**changes)


def test_more_slices_than_a_fold_has_are_refused(store: Path) -> None:
    with pytest.raises(PosconError, match=r"rounds = 9999: fold 0 has \d+ labelled slices"):
        scheduled(store, rounds=[2, 9999])
