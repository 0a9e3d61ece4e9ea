"""The words and tables of a comparison."""

from types import SimpleNamespace
from typing import Any

import pytest
from summary_examples import PLAN, schedule_and_rows

from poscon.comparison.summary import (
    OptimisticDice,
    results_csv,
    summarise,
)
from poscon.comparison.tables import (
    optimistic_table,
    protocol_lines,
    spread,
    summary_md,
    summary_tex,
    won_lost,
)


def test_of_distances_the_less_is_won() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    for metric in ("dice", "hd95_mm"):
        found = cells["pcl | supervised"].against[metric]
        assert found is not None
        assert won_lost(found, metric) == "12, 0 of 12"


def test_different_budgets_are_not_called_the_same() -> None:
    schedule, _ = schedule_and_rows({"random": 0, "pcl": 0, "mae": 0})
    told = {"iterations": 5, "batch": 4, "size": 32, "network": {"width": 2}}
    schedule.jobs = [SimpleNamespace(command="finetune", settings=told)]
    assert "Every method has the same budget." in protocol_lines(PLAN, schedule)[-1]
    schedule.jobs.append(SimpleNamespace(command="finetune", settings={**told, "iterations": 6}))
    assert "Budgets DIFFER (finetune: 5 iterations" in protocol_lines(PLAN, schedule)[-1]


@pytest.mark.parametrize(
    ("fold", "draws", "words"),
    [
        (None, 2, "All folds and draws of a method share one pre-training. So no figure here says"),
        (0, 2, "The draws of a fold share one pre-training of each method."),
        (0, 1, None),
    ],
)
def test_a_pretraining_that_trainings_share_is_told(
    fold: int | None, draws: int, words: str | None
) -> None:
    schedule, _ = schedule_and_rows({"random": 0, "pcl": 0, "mae": 0})
    told = {"epochs": 5, "batch": 4, "size": 32, "network": {"width": 2}}
    schedule.jobs = [SimpleNamespace(command="pretrain", fold=fold, settings=told)]
    plan = SimpleNamespace(**{**vars(PLAN), "draws": draws})
    lines = protocol_lines(plan, schedule)  # type: ignore[arg-type]
    told_of = [line for line in lines if "pre-training" in line]
    assert len(told_of) == (words is not None)
    assert words is None or told_of[0].startswith(words)
    assert len(lines) == 3 + len(told_of)


def test_tables_say_what_was_measured() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    cells = summarise(PLAN, schedule, Any, rows)  # type: ignore[arg-type]
    text = summary_md(PLAN, schedule, cells, "t")
    best = next(cell for cell in cells if cell.row == "pcl | supervised")
    assert f"| 2 | pcl | supervised | {spread(best.measures['dice'], 'dice')} |" in text
    assert "Inductive." in text
    latex = summary_tex(PLAN, cells)
    assert rf"{best.measures['dice'].mean:.3f} \pm {best.measures['dice'].std:.3f}^{{*}}" in latex
    assert latex.count(r"\\") == 2 + len(PLAN.rows)
    assert r"% mean and standard deviation over test subjects; * better, \dagger worse" in latex
    lines = results_csv([r for of_run in rows.values() for r in of_run]).splitlines()
    assert len(lines) == 1 + sum(map(len, rows.values()))


def test_one_subject_has_neither_a_deviation_nor_an_interval() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    first = next(iter(rows.values()))[0]["subject"]
    rows = {run: [r for r in own if r["subject"] == first] for run, own in rows.items()}
    cells = summarise(PLAN, schedule, Any, rows)  # type: ignore[arg-type]
    texts = [summary_tex(PLAN, cells), summary_md(PLAN, schedule, cells, "t")]
    for text in texts:
        assert not any(word in text for word in ("nan", "inf,", "inf]"))
    mean = cells[0].measures["dice"].mean
    assert f"${mean:.3f}$" in texts[0]


@pytest.mark.parametrize(("shift", "mark"), [(0.05, "^{*}"), (-0.05, r"^{\dagger}"), (0.0, "")])
def test_a_mark_says_which_is_better_and_is_of_the_first_metric(shift: float, mark: str) -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": shift, "mae": 0})
    cells = summarise(PLAN, schedule, Any, rows)  # type: ignore[arg-type]
    (line,) = (line for line in summary_tex(PLAN, cells).splitlines() if line.startswith("pcl &"))
    dice, *others = line.removesuffix(r" \\").split(" & ")[2:]
    assert dice.endswith(f"{mark}$")
    assert bool(mark) == ("^" in dice)
    assert others
    assert not any("^" in other for other in others)


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_only_the_flaws_that_were_asked_for_are_shown(selected: bool, pooled: bool) -> None:
    found = OptimisticDice(
        last=0.5 if selected else None,
        best=0.625 if selected else None,
        pooled=0.75 if pooled else None,
    )
    cell: Any = SimpleNamespace(
        labelled=2,
        row="pcl | supervised",
        measures={"dice": SimpleNamespace(mean=0.5)},
        optimistic=found,
    )
    text, head, rows = optimistic_table([cell])
    asked = ["0.500", "0.625", "+0.125"] if selected else []
    asked += ["0.750", "+0.250"] if pooled else []
    assert rows == [["2", "pcl", "supervised", "0.500", *asked]]
    assert len(head) == len(rows[0])
    assert ("best on the test subjects" in head) == ("watched" in text) == selected
    assert ("pooled voxels" in head) == ("put together" in text) == pooled
