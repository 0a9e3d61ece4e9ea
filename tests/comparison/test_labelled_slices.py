"""Comparisons that count labelled slices: the choice, the runs, and what they leave behind."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from poscon.comparison.compare import compare, comparison_tables, open_comparison
from poscon.comparison.dry_run import planned_runs
from poscon.comparison.jobs import Job, Schedule, make_schedule
from poscon.comparison.plan import Plan
from poscon.comparison.slices import choose, n_slices, patients, slice_table
from poscon.errors import PosconError
from poscon.reports.report import report
from poscon.settings import validate
from poscon.store.slices import read_slice_table, with_slices
from poscon.store.store import Store

FREE = ("patients", "random", "spread", "ends")
"""Strategies that need no encoder."""
COVERAGE = {"name": "coverage", "init": "pcl"}
TINY: dict[str, Any] = {
    "description": "a test",
    "data": {"phantom": {"subjects": 5, "seed": 3}, "prepare": {"spacing": 6.0}},
    "pretraining": ["random", "pcl"],
    "finetuning": [
        {"name": "supervised", "method": "supervised", "inits": ["random"]},
        {"name": "teacher", "method": "mean-teacher", "inits": ["random"]},
    ],
    "labelled_slices": [9, 15],
    "strategies": ["patients", COVERAGE],
    "size": 32,
    "precision": 32,
    "network": {"width": 2, "levels": 2},
    "pretrain": {"epochs": 1, "batch": 16},
    "finetune": {"iterations": 3, "batch": 4},
}


def cli(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "poscon", "compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "test.json").write_text(json.dumps(["phantom_000", "phantom_003"]))
    folds = [{"test": str(folder / "test.json")}]
    (folder / "plan.yaml").write_text(yaml.safe_dump({**TINY, "folds": folds}))
    return folder / "plan.yaml"


@pytest.fixture(scope="module")
def done(no_workers: None, plan: Path) -> Path:
    out = plan.parent / "out"
    compare(str(plan), out)
    return out


def settled(**changes: Any) -> Plan:
    told = {
        "pretraining": ["random", "pcl"],
        "labelled_slices": [3],
        "folds": 2,
        "size": 32,
        "network": {"width": 4, "levels": 2},
    }
    return validate(Plan, {**told, **changes})


def scheduled(store: Path, **changes: Any) -> Schedule:
    return make_schedule(settled(**changes), Store(store), store)


def test_every_run_has_its_row(done: Path) -> None:
    found = rows(done)
    assert list(found[0])[:6] == [
        *("pretraining", "finetuning", "labelled_slices", "strategy", "fold", "draw")
    ]
    runs = {(r["finetuning"], r["labelled_slices"], r["strategy"]) for r in found}
    assert runs == {
        (method, number, strategy)
        for method in ("supervised", "teacher")
        for number in ("9", "15")
        for strategy in ("patients", "coverage-pcl")
    }
    summary = (done / "summary.md").read_text()
    assert "| labelled slices | init | fine-tuning | strategy |" in summary
    assert "| 15 | random | teacher | coverage-pcl |" in summary
    assert "All labels of the training subjects are hidden." in summary
    assert "$N=15$" in (done / "table.tex").read_text()
    assert comparison_tables(open_comparison(done))


def test_the_chosen_slices_are_those_that_are_labelled(done: Path) -> None:
    comparison = open_comparison(done)
    store = Store(comparison.place.store)
    test = {"phantom_000", "phantom_003"}
    assert len(list((done / "slices").iterdir())) == 4  # the methods share them
    for job in comparison.schedule.finetunings:
        assert job.slices is not None
        table = read_slice_table(done / "slices" / job.slices.table)
        assert sum(map(len, table.values())) == job.labelled
        assert not set(table) & test
        entries = json.loads((comparison.place.run(job.name) / "cases.json").read_text())
        roles: dict[str, set[str]] = {}
        for entry in entries:
            roles.setdefault(entry["role"], set()).add(entry["id"])
        assert roles["labelled"] == set(table)
        rest = {case.id for case in store.cases} - test - set(table)
        assert roles.get("unlabelled", set()) == (rest if job.finetuning == "teacher" else set())


@pytest.mark.slow
def test_done_again_only_what_is_missing_is_done_and_is_the_same(plan: Path, done: Path) -> None:
    before = (done / "results.csv").read_text()
    job = next(j for j in open_comparison(done).schedule.finetunings if j.strategy != "patients")
    assert job.slices is not None
    (done / "slices" / job.slices.table).unlink()
    run = done / "runs" / job.name
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    others = {p: p.stat().st_mtime_ns for p in (done / "runs").glob("*/results.csv")}
    cli(plan, done, "--processes", 1)
    assert (done / "results.csv").read_text() == before
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_the_report_has_a_line_for_every_strategy(done: Path) -> None:
    page = report(done).read_text()
    assert "Dice against labelled slices, supervised" in page
    assert "<td>coverage-pcl</td>" in page
    assert "15 labelled slices" in page


def test_the_dry_run_has_the_runs_of_the_comparison(plan: Path, done: Path) -> None:
    jobs, runs = open_comparison(done).schedule.jobs, planned_runs(str(plan))
    assert [(j.command, j.pretraining, j.finetuning, j.labelled, j.strategy) for j in jobs] == [
        (r.command, r.pretraining, r.finetuning, r.labelled, r.strategy) for r in runs
    ]
    assert any("9 labelled slices by coverage-pcl, draw 0" in run.name for run in runs)


@pytest.mark.parametrize("strategy", FREE)
def test_a_choice_is_part_of_a_larger_one_and_depends_on_the_seed(
    store: Path, strategy: str
) -> None:
    opened = Store(store)
    cases = [case for case in opened.cases if case.labelled]
    chosen = {n: choose(opened, cases, strategy, n, seed=4) for n in (1, 2, 7, 30)}
    for fewer, more in ((1, 2), (2, 7), (7, 30)):
        assert len(set(map(key, chosen[more]))) == more
        assert set(map(key, chosen[fewer])) < set(map(key, chosen[more]))
    other = choose(opened, cases, strategy, 7, seed=5)
    assert list(map(key, other)) != list(map(key, chosen[7]))


def key(chosen: Any) -> tuple[str, int]:
    case, number = chosen
    return case.id, number


def test_coverage_chooses_by_the_encoder_and_is_nested(store: Path, pretrained: Path) -> None:
    opened = Store(store)
    cases = list(opened.cases)
    few, many = (choose(opened, cases, "coverage", n, 0, pretrained, "cpu") for n in (4, 9))
    assert list(map(key, few)) == list(map(key, many[:4]))
    assert len({case.subject for case, _ in many[:5]}) == 5  # subjects take turns


def test_only_what_is_labelled_can_be_chosen(store: Path) -> None:
    opened = Store(store)
    cases = [with_slices(opened, case, (2, 5)) for case in opened.cases]
    for strategy in FREE:
        chosen = choose(opened, cases, strategy, n_slices(cases), seed=0)
        assert {number for _, number in chosen} == {2, 5}


def test_patients_are_whole_in_their_order_and_the_last_is_spread(store: Path) -> None:
    cases = list(Store(store).cases)[::-1]
    first, second = cases[:2]
    number = first.shape[0] + 3
    chosen = patients(cases, number, seed=0)
    assert len(chosen) == number
    assert [n for case, n in chosen if case.id == first.id] == list(range(first.shape[0]))
    last = sorted(n for case, n in chosen if case.id == second.id)
    assert len(last) == 3
    around = np.diff([*last, last[0] + second.shape[0]])
    assert around.min() > second.shape[0] / 5


def test_a_table_of_slices_can_be_read(store: Path, tmp_path: Path) -> None:
    cases = list(Store(store).cases)
    (tmp_path / "slices.csv").write_text(slice_table([(cases[1], 4), (cases[0], 2), (cases[1], 0)]))
    assert read_slice_table(tmp_path / "slices.csv") == {cases[0].id: (2,), cases[1].id: (0, 4)}
    assert "\n1," + cases[1].id in (tmp_path / "slices.csv").read_text()


def test_patients_are_drawn_as_labelled_subjects_are(store: Path) -> None:
    subjects = scheduled(store, labelled_slices=None, labelled=[1], draws=2)
    slices = scheduled(store, strategies=["patients"], draws=2)

    def first(schedule: Schedule) -> dict[tuple[Any, Any], str]:
        return {(j.fold, j.draw): j.cases["labelled"][0] for j in schedule.finetunings}

    assert first(subjects) == first(slices)


def test_listed_patients_are_labelled_in_the_order_of_the_list(store: Path, tmp_path: Path) -> None:
    subjects = sorted(case.subject for case in Store(store).cases)
    listed = [subjects[i] for i in (3, 1, 2)]
    (tmp_path / "train.json").write_text(json.dumps(listed))
    (tmp_path / "test.json").write_text(json.dumps(subjects[:1]))
    told = settled(
        order="listed",
        strategies=["patients"],
        folds=[{part: str(tmp_path / f"{part}.json") for part in ("train", "test")}],
    )
    for job in make_schedule(told, Store(store), store).finetunings:
        assert job.cases["labelled"] == tuple(listed)  # the phantoms have a case each


def test_a_run_is_known_by_what_determines_its_slices(store: Path) -> None:
    def tables(**changes: Any) -> set[str]:
        changes = {"labelled_slices": [3, 6], "strategies": ["random", COVERAGE], **changes}
        jobs: list[Job] = scheduled(store, **changes).finetunings
        found = {job.slices.table for job in jobs if job.slices is not None}
        assert len({job.name for job in jobs}) == len(jobs) == 2 * len(found)  # two starts
        return found

    told = tables()
    assert len(told) == 2 * 2 * 2  # folds, numbers, strategies
    assert tables(strategies=["random", COVERAGE, "spread"]) > told
    assert tables(seed=1).isdisjoint(told)
    changed = tables(pretrain={"epochs": 7}) - told
    assert len(changed) == 4
    assert all("coverage-pcl" in name for name in changed)


def test_a_pretraining_that_only_chooses_comes_first(store: Path) -> None:
    entry = {"name": "supervised", "method": "supervised", "inits": ["random"]}
    jobs = scheduled(store, finetuning=[entry], strategies=[COVERAGE]).jobs
    names = [job.name for job in jobs]
    for job in jobs:
        assert all(names.index(name) < names.index(job.name) for name in job.needs)
    assert sum(job.command == "pretrain" for job in jobs) == 2


def test_a_schedule_is_read_as_it_was_written(store: Path) -> None:
    schedule = scheduled(store, strategies=["spread", COVERAGE])
    assert Schedule.from_record(json.loads(json.dumps(schedule.as_record()))) == schedule


def test_a_schedule_of_an_earlier_version_is_read(store: Path) -> None:
    schedule = scheduled(store, labelled_slices=None, labelled=[1])
    record = schedule.as_record()
    for job in record["jobs"]:
        del job["slices"]
    assert Schedule.from_record(record) == schedule


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labelled": [1]}, "give either labelled .* or labelled_slices"),
        ({"labelled_slices": None}, "give either labelled .* or labelled_slices"),
        (
            {"labelled_slices": None, "labelled": [1], "strategies": ["spread"]},
            "strategies has no effect without labelled_slices or rounds",
        ),
        ({"strategies": ["spreed"]}, "'spreed' is unknown .did you mean 'spread'"),
        ({"strategies": ["patient"]}, "'patient' is unknown .did you mean 'patients'"),
        ({"strategies": ["uncertain"]}, "uncertain needs a fine-tuned model.*give rounds"),
        ({"strategies": ["coverage"]}, r"coverage needs an encoder; write {name: coverage, init"),
        ({"strategies": [{"name": "coverage", "init": "plc"}]}, "not among .* mean 'pcl'"),
        ({"strategies": [{"name": "coverage", "init": "random"}]}, "is a random initialisation"),
        ({"strategies": [{"name": "spread", "init": "pcl"}]}, "init of spread has no effect"),
        ({"strategies": ["spread", "spread"]}, "strategies has spread twice"),
        ({"labelled_slices": [3, 3]}, "labelled_slices has 3 twice"),
        (
            {"order": "listed", "folds": [{"train": "a.json", "test": "b.json"}]},
            "order listed has no effect: patients is not among the strategies",
        ),
        ({"baseline": "random | supervised"}, "is no row.*random . supervised . spread"),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PosconError, match=words):
        settled(**changes)


def test_more_slices_than_a_fold_has_are_refused(store: Path) -> None:
    with pytest.raises(PosconError, match=r"labelled_slices = 9999: fold 0 has \d+ labelled slice"):
        scheduled(store, labelled_slices=[9999])
    folds = scheduled(store).folds
    cases = [c for c in Store(store).cases if c.subject in folds[0].train]
    everything = n_slices(cases)
    with pytest.raises(PosconError, match="leaves fold 0 no slice without labels"):
        scheduled(store, labelled_slices=[everything], finetuning=["mean-teacher"])
    assert scheduled(store, labelled_slices=[everything - 1], finetuning=["mean-teacher"]).jobs


def test_slices_are_spread_unless_the_plan_says_otherwise() -> None:
    assert settled().rows == ["random | supervised | spread", "pcl | supervised | spread"]
    assert settled().baseline_row == "random | supervised | spread"
