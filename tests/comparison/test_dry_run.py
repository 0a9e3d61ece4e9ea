"""The dry run: the runs that a comparison would do, and where each setting comes from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.table import Table

from poscon.comparison.dry_run import PlannedRun, dry_run_tables, planned_runs
from poscon.comparison.jobs import make_schedule
from poscon.comparison.plan_files import read_plan
from poscon.errors import PosconError
from poscon.store.store import Store

PLAN: dict[str, Any] = {
    "data": {"phantom": {"subjects": 8}},
    "recipe": {
        "pretrain": {
            "method": "pcl",
            "loss": {"threshold": 0.3},
            "batch": 16,
        },
        "finetune": {"iterations": 7, "ema_decay": 0.9},
    },
    "pretraining": [
        "random",
        {"name": "sharp", "method": "pcl", "settings": {"loss": {"temperature": 0.2}}},
        "rotation",
    ],
    "finetuning": ["supervised", "mean-teacher"],
    "labelled": [1, 2],
    "folds": 2,
    "draws": 2,
    "network": {"width": 4},
    "pretrain": {"epochs": 3, "views": {"rotation": 10}},
    "finetune": {"optimiser": {"lr": 0.01}},
}


def write(folder: Path, **changes: object) -> str:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return str(path)


def one(runs: list[PlannedRun], **wanted: object) -> PlannedRun:
    return next(
        run for run in runs if all(getattr(run, key) == value for key, value in wanted.items())
    )


def test_every_run_is_there_once(tmp_path: Path) -> None:
    runs = planned_runs(write(tmp_path))
    pretrainings = [run for run in runs if run.command == "pretrain"]
    assert [(r.pretraining, r.fold) for r in pretrainings] == [
        ("sharp", 0),
        ("rotation", 0),
        ("sharp", 1),
        ("rotation", 1),
    ]
    finetunings = [run for run in runs if run.command == "finetune"]
    assert len(finetunings) == 3 * 2 * 2 * 2 * 2  # inits, fine-tunings, labelled, folds, draws
    assert len({run.name for run in runs}) == len(runs)


@pytest.mark.parametrize("transductive", [False, True])
def test_they_are_the_runs_of_the_comparison(
    store: Path, tmp_path: Path, transductive: bool
) -> None:
    """With the same settings, in the same order, whatever the data."""
    plan = write(tmp_path, transductive=transductive, size=32, labelled=[1])
    jobs = make_schedule(read_plan(plan), Store(store), tmp_path).jobs
    runs = planned_runs(plan)
    assert len(jobs) == len(runs)
    for job, run in zip(jobs, runs, strict=True):
        assert job.command == run.command
        assert (job.pretraining, job.finetuning) == (run.pretraining, run.finetuning)
        assert (job.fold, job.labelled, job.draw) == (run.fold, run.labelled, run.draw)
        for key, setting in run.settings.items():
            value: Any = job.settings
            for part in key.split("."):
                value = value[part]
            assert value == setting.value, key


def test_where_each_setting_comes_from(tmp_path: Path) -> None:
    given = ["pretrain.epochs=5", "network.width=6", "recipe.finetune.iterations=9", "seed=4"]
    runs = planned_runs(write(tmp_path), settings=given, device="cpu")
    sharp = one(runs, command="pretrain", pretraining="sharp").settings
    expected = {
        "method": ("pcl", "entry"),
        "loss.temperature": (0.2, "entry"),
        "loss.threshold": (0.3, "recipe"),
        "batch": (16, "recipe"),
        "epochs": (5, "--set"),
        "views.rotation": (10, "plan"),
        "views.scale": ([0.7, 1.3], "default"),
        "network.width": (6, "--set"),
        "network.levels": (4, "default"),
        "seed": (4, "--set"),
        "device": ("cpu", "--device"),
        "size": ("auto", "default"),
    }
    assert {key: (sharp[key].value, sharp[key].origin) for key in expected} == expected
    rotation = one(runs, command="pretrain", pretraining="rotation").settings
    assert not [key for key in rotation if key.startswith("loss.")]
    tuned = one(
        runs, command="finetune", pretraining="sharp", finetuning="supervised", draw=1
    ).settings
    expected = {
        "iterations": (9, "--set"),
        "ema_decay": (0.9, "recipe"),
        "optimiser.lr": (0.01, "plan"),
        "optimiser.warmup": (0.05, "default"),
        "network.width": (6, "--set"),
        "seed": (5, "--set"),
    }
    assert {key: (tuned[key].value, tuned[key].origin) for key in expected} == expected
    # the recipe's setting has no effect with this method, so it is not taken
    teacher = one(runs, command="finetune", finetuning="mean-teacher").settings
    assert teacher["ema_decay"].origin == "default"


def test_what_compare_refuses_is_refused(tmp_path: Path) -> None:
    plan = write(tmp_path)
    for arguments, words in (
        ({"settings": ["fold=3"]}, "did you mean 'folds'"),
        ({"settings": ["size=50"]}, "setting size = 50: must be a multiple of"),
        ({"data": tmp_path / "nowhere"}, "no such folder"),
        ({"pretrain_data": tmp_path}, "no transfer"),
        ({"engine": "dask"}, "local or ray"),
    ):
        with pytest.raises(PosconError, match=words):
            planned_runs(plan, **arguments)  # type: ignore[arg-type]


def test_runs_with_equal_settings_share_a_table(tmp_path: Path) -> None:
    shown = dry_run_tables(planned_runs(write(tmp_path, draws=1, labelled=[1])))
    texts = [str(part) for part in shown]
    assert texts.index("pretrain sharp, fold 1") == texts.index("pretrain sharp, fold 0") + 1
    assert len([part for part in shown if isinstance(part, Table)]) == 4
    assert shown[-1] == "16 runs; nothing was done"


def test_on_the_command_line_nothing_is_written(
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    results = []
    for more in ([], ["--json"], ["--json", "-s", "draws=1"]):
        code, shown, _ = poscon("compare", "plan.yaml", "out", "--dry-run", *more)
        assert code == 0
        results.append(shown)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
    table, records, fewer = results
    assert "pretrain sharp, fold 0" in table
    assert "loss.temperature" in table
    runs = json.loads(records)
    assert len(runs) == 4 + 48
    first = next(run for run in runs if run["command"] == "pretrain")
    assert first["settings"]["epochs"] == {"value": 3, "origin": "plan"}
    assert len(json.loads(fewer)) == 4 + 24
