"""A plan, its schedule and rows of results, for the tests of statistics and tables."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np

PLAN: Any = SimpleNamespace(
    metrics=("dice", "hd95_mm"),
    amounts=(2,),
    unit="subjects",
    rows=["random | supervised", "pcl | supervised", "mae | supervised"],
    baseline_row="random | supervised",
    description="a test",
    draws=2,
    seed=0,
    order="random",
    flaws=SimpleNamespace(select_on_test=False, pooled_dice=False),
)
SUBJECTS = [f"s{i}" for i in range(12)]


def row(
    run: str, fold: int, draw: int, subject: str, case: str, name: str, dice: float | None
) -> Any:
    return {
        "run": run,
        "fold": str(fold),
        "draw": str(draw),
        "subject": subject,
        "case": case,
        "class": name,
        "dice": "" if dice is None else repr(dice),
        "hd95_mm": "" if dice is None else repr(10 * (1 - dice)),
        "volume_ml": "3.0",
        "reference_volume_ml": "5.0",
        "spacing_x_mm": "2.0",
        "spacing_y_mm": "1.0",
        "spacing_z_mm": "0.5",
    }


def schedule_and_rows(shift: dict[str, float]) -> tuple[Any, dict[str, list[Any]]]:
    """Two folds, two draws, two frames a subject, two classes."""
    rng = np.random.default_rng(3)
    base = {key: rng.uniform(0.4, 0.7) for key in product(SUBJECTS, "ab", ("ED", "ES"), (0, 1))}
    jobs, rows = [], {}
    for name, (fold, draw) in product(PLAN.rows, product((0, 1), (0, 1))):
        start = name.split(" | ")[0]
        job = SimpleNamespace(
            name=f"{start}-{fold}-{draw}", row=name, labelled=2, fold=fold, draw=draw
        )
        jobs.append(job)
        noise = np.random.default_rng([fold, draw, len(start)])
        rows[job.name] = [
            row(
                job.name,
                fold,
                draw,
                subject,
                f"{subject}_{frame}",
                klass,
                base[subject, klass, frame, draw] + shift[start] + noise.normal(0, 0.01),
            )
            for subject, klass, frame in product(SUBJECTS[fold::2], "ab", ("ED", "ES"))
        ]
    folds = [SimpleNamespace(test=tuple(SUBJECTS[f::2])) for f in (0, 1)]
    return SimpleNamespace(finetunings=jobs, jobs=[], folds=folds, protocol="Inductive."), rows
