import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from summary_examples import PLAN, SUBJECTS, row, schedule_and_rows

from poscon.comparison.summary import (
    by_subject,
    measures_of,
    pooled_dice,
    results_csv,
    summarise,
)
from poscon.comparison.tables import (
    summary_md,
    trainings_ahead,
    verdict,
)


def test_a_subject_is_the_mean_over_classes_then_over_frames_and_draws() -> None:
    rows = [
        row("r0", 0, 0, "s", "s_ED", "a", 0.2),
        row("r0", 0, 0, "s", "s_ED", "b", 0.4),
        row("r0", 0, 0, "s", "s_ES", "a", 0.9),
        row("r0", 0, 0, "s", "s_ES", "b", None),  # absent from both: not measured
        row("r1", 0, 1, "s", "s_ED", "a", 0.6),
        row("r1", 0, 1, "s", "s_ED", "b", 0.8),
    ]
    assert by_subject(rows, "dice") == {"s": pytest.approx((0.3 + 0.9 + 0.7) / 3)}


def test_measures_are_over_subjects_and_draws_are_told() -> None:
    _, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    of_cell = [r for name, of_run in rows.items() if name.startswith("random") for r in of_run]
    measure = measures_of(PLAN, of_cell)["dice"]
    values = []
    for subject in SUBJECTS:
        own = [float(r["dice"]) for r in of_cell if r["subject"] == subject]
        values.append(sum(own) / len(own))  # all cases have both classes here
    assert measure.mean == pytest.approx(np.mean(values))
    assert measure.std == pytest.approx(np.std(values, ddof=1))
    assert measure.mean in measure.interval
    for draw, mean in enumerate(measure.draws):
        own = [float(r["dice"]) for r in of_cell if r["draw"] == str(draw)]
        assert mean == pytest.approx(np.mean(own))


def test_differences_are_paired_tested_and_adjusted() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    values = {
        name: by_subject(
            [r for j in schedule.finetunings if j.row == name for r in rows[j.name]], "dice"
        )
        for name in PLAN.rows
    }
    apart = {
        name: [values[name][s] - values[PLAN.baseline_row][s] for s in SUBJECTS]
        for name in PLAN.rows[1:]
    }
    p = {name: stats.wilcoxon(d).pvalue for name, d in apart.items()}
    better = cells["pcl | supervised"].against["dice"]
    assert better is not None
    assert better.mean == pytest.approx(np.mean(apart["pcl | supervised"]))
    assert better.p == pytest.approx(min(1, 2 * p["pcl | supervised"]))
    assert (better.wins, better.losses) == (12, 0)
    assert better.distinguishable
    assert cells["random | supervised"].against["dice"] is None
    same = cells["mae | supervised"]
    assert "not distinguishable" in verdict(same, "dice")
    assert verdict(cells["random | supervised"], "dice") == "baseline"


def test_what_is_ahead_by_the_luck_of_a_training_is_not_distinguishable() -> None:
    """One draw gains 0.3, the other loses 0.1: all subjects gain, of the trainings only half do."""
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    for name, by in (("mae-0-0", 0.3), ("mae-1-0", 0.3), ("mae-0-1", -0.1), ("mae-1-1", -0.1)):
        for r in rows[name]:
            r["dice"] = repr(float(r["dice"]) + by)
            r["hd95_mm"] = repr(float(r["hd95_mm"]) - 10 * by)
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    for metric in ("dice", "hd95_mm"):
        lucky = cells["mae | supervised"].against[metric]
        assert lucky is not None
        assert lucky.p < 0.05
        assert 0 not in lucky.interval
        assert not lucky.distinguishable
        assert lucky.trainings is not None
        apart = sorted(abs(x) for x in lucky.trainings)
        unit = 1 if metric == "dice" else 10
        assert apart == pytest.approx([unit * x for x in (0.1, 0.1, 0.3, 0.3)], abs=0.02 * unit)
        assert trainings_ahead(lucky, metric).startswith("2 of 4 [-")
        sure = cells["pcl | supervised"].against[metric]
        assert sure is not None
        assert sure.distinguishable
        assert trainings_ahead(sure, metric).startswith("4 of 4 [")
    assert verdict(cells["mae | supervised"], "dice").endswith(": not distinguishable")


def shared_runs(schedule: Any, row: str, other: str) -> None:
    """Give a row the runs of another row."""
    for job in schedule.finetunings:
        if job.row == row:
            job.name = job.name.replace(row.split(" | ")[0], other.split(" | ")[0])


def test_rows_with_the_same_runs_are_tested_once() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    shared_runs(schedule, "mae | supervised", "pcl | supervised")
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    found = cells["pcl | supervised"].against["dice"]
    assert found is not None
    values = [cells[name].measures["dice"].subjects for name in PLAN.rows[:2]]
    p = stats.wilcoxon([values[1][s] - values[0][s] for s in SUBJECTS]).pvalue
    assert found.p == pytest.approx(p)
    assert cells["mae | supervised"].against["dice"] == found


def test_the_runs_of_the_baseline_are_not_tested_against_themselves() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    shared_runs(schedule, "mae | supervised", "random | supervised")
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    same = cells["mae | supervised"]
    assert same.measures == cells["random | supervised"].measures
    assert same.against["dice"] is None
    assert verdict(same, "dice") == "the same runs as the baseline"
    assert verdict(cells["random | supervised"], "dice") == "baseline"


def test_one_training_alone_distinguishes_nothing() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    wanted = ("random-0-0", "pcl-0-0")
    schedule.finetunings = [j for j in schedule.finetunings if j.name in wanted]
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    found = cells["pcl | supervised"].against["dice"]
    assert found is not None
    assert found.p < 0.05  # by subjects it would be
    assert 0 not in found.interval
    assert found.of_trainings is None
    assert not found.distinguishable
    assert trainings_ahead(found, "dice") == "1 of 1"


def test_an_unfinished_cell_has_no_figure_and_is_nobodys_baseline() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    del rows["mae-1-0"]
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    assert (cells["mae | supervised"].runs, cells["mae | supervised"].wanted) == (3, 4)
    assert not cells["mae | supervised"].measures
    assert cells["pcl | supervised"].against["dice"] is not None
    del rows["random-0-0"]
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    assert cells["pcl | supervised"].complete
    assert cells["pcl | supervised"].against["dice"] is None
    assert verdict(cells["pcl | supervised"], "dice") == "the baseline is not finished"
    text = summary_md(PLAN, schedule, list(cells.values()), "t")
    assert "3 of 4 runs" in text


def test_a_subject_that_only_some_methods_have_is_compared_by_none() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    for name, of_run in rows.items():
        if name.startswith("pcl"):  # predicts nothing where there is nothing: not measured
            for r in of_run:
                if r["subject"] == "s3":
                    r["dice"] = r["hd95_mm"] = ""
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    found = cells["pcl | supervised"].against["dice"]
    assert found is not None
    assert found.subjects == 11
    assert len(cells["random | supervised"].measures["dice"].subjects) == 12


def test_a_cell_in_which_nobody_is_measured_is_empty() -> None:
    schedule, rows = schedule_and_rows({"random": 0, "pcl": 0.05, "mae": 0})
    for name, of_run in rows.items():
        if name.startswith("mae"):
            for r in of_run:
                r["dice"] = r["hd95_mm"] = ""
    cells = {cell.row: cell for cell in summarise(PLAN, schedule, Any, rows)}  # type: ignore[arg-type]
    assert not cells["mae | supervised"].complete
    assert cells["pcl | supervised"].against["dice"] is not None


def test_results_of_an_earlier_version_lack_a_column() -> None:
    rows = [{"run": "old", "dice": "0.5"}, {"run": "new", "dice": "1", "more": "x"}]
    assert results_csv(rows).splitlines() == ["run,dice,more", "old,0.5,", "new,1,x"]


def test_pooled_dice_is_that_of_all_voxels_together() -> None:
    rng = np.random.default_rng(0)
    rows, both, total = [], 0, 0
    for case in range(5):
        a, b = rng.random(1000) < rng.uniform(0.1, 0.9), rng.random(1000) < 0.4
        own_both, own_total = int((a & b).sum()), int(a.sum() + b.sum())
        both, total = both + own_both, total + own_total
        spacing = rng.uniform(0.5, 3, 3).tolist()
        ml = math.prod(spacing) / 1000
        own = row("r", 0, 0, f"s{case}", f"s{case}", "a", 2 * own_both / own_total)
        own |= {
            "volume_ml": repr(int(a.sum()) * ml),
            "reference_volume_ml": repr(int(b.sum()) * ml),
        }
        own |= {f"spacing_{x}_mm": repr(v) for x, v in zip("xyz", spacing, strict=True)}
        rows.append(own)
    assert pooled_dice(rows) == pytest.approx(2 * both / total)
