"""The tables of a comparison, in Markdown and LaTeX, and its protocol in words."""

import math
from collections.abc import Sequence

from poscon.comparison.jobs import Job, Schedule
from poscon.comparison.plan import Plan, row_headings
from poscon.comparison.plan_parts import PATIENTS
from poscon.comparison.summary import Cell, Measure
from poscon.files import markdown_cell
from poscon.statistics import Difference, Interval

METRIC_NAMES = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "nsd": "NSD",
    "rvd": "RVD",
}
DIGITS = {"dice": 3, "hd95_mm": 1, "assd_mm": 2, "nsd": 3, "rvd": 3}
OVERLAPS = ("dice", "nsd")
"""Metrics of which more is better. Of a distance less is."""

_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
    }
)
"""What stands in LaTeX for a sign that is a command there."""


def difference(found: Difference, metric: str) -> str:
    """A difference with its interval, such as ``+0.012 [+0.003, +0.021]``."""
    return f"{found.mean:+.{DIGITS[metric]}f}{_ends(found.interval, metric, '+')}"


def verdict(cell: Cell, metric: str) -> str:
    """The difference to the baseline in words, for a table."""
    found = cell.against[metric]
    if cell.same_as_baseline:
        return "the same runs as the baseline"
    if found is None:
        return "baseline" if cell.baseline else "the baseline is not finished"
    text = f"{difference(found, metric)}, p = {found.p:.2g}"
    return text if found.distinguishable else f"{text}: not distinguishable"


def won_lost(found: Difference, metric: str) -> str:
    """The numbers of subjects on which a row is better and worse than the baseline."""
    better, worse = found.wins, found.losses
    if metric not in OVERLAPS:  # a smaller distance is better
        better, worse = worse, better
    return f"{better}, {worse} of {found.subjects}"


def trainings_ahead(found: Difference, metric: str) -> str:
    """In how many trainings a row is better, and their interval: ``4 of 6 [-0.016, +0.034]``."""
    assert found.trainings is not None
    sign = 1 if metric in OVERLAPS else -1  # a smaller distance is better
    ahead = sum(sign * apart > 0 for apart in found.trainings)
    return f"{ahead} of {len(found.trainings)}{_ends(found.of_trainings, metric, '+')}"


def mean_and_std(measure: Measure, metric: str) -> str:
    """Mean and deviation, such as ``0.812 ± 0.041``; the mean alone if there is one subject."""
    mean = f"{measure.mean:.{DIGITS[metric]}f}"
    return mean if math.isnan(measure.std) else f"{mean} ± {measure.std:.{DIGITS[metric]}f}"


def spread(measure: Measure, metric: str) -> str:
    """Mean, deviation and interval, such as ``0.812 ± 0.041 [0.801, 0.822]``."""
    return mean_and_std(measure, metric) + _ends(measure.interval, metric)


def _ends(interval: Interval | None, metric: str, sign: str = "") -> str:
    """The ends of an interval after a space, such as `` [0.801, 0.822]``; nothing for one value.

    Args:
        interval: the interval.
        metric: the metric, which says how many digits are shown.
        sign: ``"+"``: positive numbers have a sign.
    """
    if interval is None or math.isinf(interval.low):
        return ""
    shape = f"{sign}.{DIGITS[metric]}f"
    return f" [{interval.low:{shape}}, {interval.high:{shape}}]"


def draw_range(measure: Measure, metric: str) -> str:
    """The lowest and the highest mean of a draw."""
    if len(measure.draws) == 1:
        return "one draw"
    d = DIGITS[metric]
    return f"{min(measure.draws):.{d}f} to {max(measure.draws):.{d}f}"


HOW_TO_READ = (
    "The value of a subject is its mean over classes, frames and draws. The table gives the mean ± "
    "standard deviation over the subjects of all folds, and the 95 % interval of the mean over "
    "subjects (Student's t). Differences are paired by subject. p is from Wilcoxon's signed-rank "
    "test, adjusted by Holm over the finished rows of the same number of labels, so p may "
    "still rise. Interval and p tell what other subjects would show with these very trainings. The "
    "last column tells what other trainings would show: in how many of them (each is a fold and a "
    "draw) the row is ahead of the baseline, and the 95 % interval of the mean over them. "
    "A difference is not distinguishable if p is 0.05 or more, if either interval holds 0, or if "
    "there is only one training."
)


def summary_md(plan: Plan, schedule: Schedule, cells: Sequence[Cell], title: str) -> str:
    """The text of summary.md: the tables in Markdown."""
    lines = [f"# {title}", ""]
    if plan.description:
        lines += [" ".join(plan.description.split()), ""]
    lines += [f"- {sentence}" for sentence in protocol_lines(plan, schedule)]
    lines += ["", *_markdown(*results_table(plan, cells))]
    lines += ["", HOW_TO_READ, ""]
    optimistic = [cell for cell in cells if cell.optimistic is not None]
    if optimistic:
        text, head, rows = optimistic_table(optimistic)
        lines += ["## What flawed reporting would have said", "", text, ""]
        lines += [*_markdown(head, rows), ""]
    return "\n".join(lines)


def results_table(plan: Plan, cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row per cell: its metrics, and the first of them against the baseline."""
    first = plan.metrics[0]
    head = [*cell_headings(plan.baseline_row), *(METRIC_NAMES[m] for m in plan.metrics)]
    head += [f"draws ({METRIC_NAMES[first]})"]
    head += [f"{METRIC_NAMES[first]} against {plan.baseline_row.replace(' | ', ', ')}", "won, lost"]
    head += ["trainings ahead"]
    rows = []
    for cell in cells:
        shown = [str(cell.labelled), *cell.row.split(" | ")]
        if cell.complete:
            found = cell.against[first]
            shown += [spread(cell.measures[m], m) for m in plan.metrics]
            shown += [draw_range(cell.measures[first], first), verdict(cell, first)]
            told = (won_lost, trainings_ahead)
            shown += ["" if found is None else tell(found, first) for tell in told]
        else:
            shown += [f"{cell.runs} of {cell.wanted} runs", *[""] * (len(plan.metrics) + 3)]
        rows.append(shown)
    return head, rows


def cell_headings(row: str) -> list[str]:
    """The headings of the columns that say what a cell is: the number of labels, and the row."""
    headings = row_headings(row)
    return ["labelled slices" if "strategy" in headings else "labelled", *headings]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(markdown_cell, head))} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(markdown_cell, row))} |" for row in rows)]


def optimistic_table(cells: Sequence[Cell]) -> tuple[str, list[str], list[list[str]]]:
    """The table of what flawed reporting would say.

    Returns:
        An explanation, the headings, and one row per cell.
    """
    told = [(cell, cell.optimistic) for cell in cells if cell.optimistic is not None]
    selected = any(found.best is not None for _, found in told)
    pooled = any(found.pooled is not None for _, found in told)
    text = (
        "The Dice of the same runs. The first figure is the honest one: the mean over subjects, "
        "with the last checkpoint."
    )
    head = [*cell_headings(cells[0].row), "honest"]
    if selected:
        text += (
            " The next two come from the curve of every training, which was watched on the test "
            "subjects, on the store's grid: its last checkpoint, and its best one."
        )
        head += ["last checkpoint", "best on the test subjects", "gained"]
    if pooled:
        text += " The last figure is of the voxels of all test subjects put together."
        head += ["pooled voxels", "gained"]
    rows = []
    for cell, found in told:
        honest = cell.measures["dice"].mean
        shown = [str(cell.labelled), *cell.row.split(" | "), f"{honest:.3f}"]
        if found.last is not None and found.best is not None:
            gained = found.best - found.last
            shown += [f"{found.last:.3f}", f"{found.best:.3f}", f"{gained:+.3f}"]
        elif selected:
            shown += ["", "", ""]
        if found.pooled is not None:
            shown += [f"{found.pooled:.3f}", f"{found.pooled - honest:+.3f}"]
        elif pooled:
            shown += ["", ""]
        rows.append(shown)
    return text, head, rows


def protocol_lines(plan: Plan, schedule: Schedule) -> list[str]:
    """The protocol, as a list of sentences."""
    n_subjects = sum(len(fold.test) for fold in schedule.folds)
    return [
        schedule.protocol,
        *_shared_pretraining(plan, schedule),
        f"{len(schedule.folds)} fold(s) with {plan.draws} draw(s) each. {n_subjects} subjects are "
        f"tested, each once per draw. {_labels(plan)}",
        f"Seed {plan.seed}. {_budgets(schedule)} The model is the last state of its training. "
        "Nothing is chosen by the test subjects.",
    ]


def _labels(plan: Plan) -> str:
    """Say which labels are used."""
    drawn = "drawn at random" if plan.order == "random" else "the first of the list"
    if plan.unit == "subjects":
        return (
            f"The labelled subjects are {drawn}. They are the same for all methods, and a smaller "
            "number of them is part of a larger one."
        )
    text = (
        "All labels of the training subjects are hidden. A strategy chooses slices, and only these "
        "are then labelled. The slices of a strategy are the same for all methods"
    )
    in_rounds = [s.label for s in plan.slice_strategies if plan.in_rounds(s)]
    text += (
        f", except those of {' and '.join(in_rounds)}: there each row's model of a round chooses "
        "the slices that its next round adds."
        if in_rounds
        else "."
    )
    labels = [s.label for s in plan.slice_strategies]
    for strategy in plan.slice_strategies:
        by = plan.chooser(strategy, plan.amounts[0])
        if by != strategy and by.label in labels:
            text += (
                f" In the first round {strategy.label} chooses as {by.label} does, so both rows "
                "show the same runs."
            )
    if any(strategy.name == PATIENTS for strategy in plan.slice_strategies):
        text += f" The subjects of the strategy {PATIENTS} are {drawn}."
    return text


def _shared_pretraining(plan: Plan, schedule: Schedule) -> list[str]:
    """A sentence on which trainings share a pre-training; empty if none do."""
    pretrainings = [job for job in schedule.jobs if job.command == "pretrain"]
    if any(job.fold is None for job in pretrainings) and len(schedule.folds) * plan.draws > 1:
        return [
            "All folds and draws of a method share one pre-training. So no figure here says what "
            "another pre-training would change."
        ]
    if pretrainings and plan.draws > 1:
        return ["The draws of a fold share one pre-training of each method."]
    return []


def _budgets(schedule: Schedule) -> str:
    """Say whether all pre-trainings, and all fine-tunings, have the same budget."""
    of = {
        command: {budget(job) for job in schedule.jobs if job.command == command}
        for command in ("pretrain", "finetune")
    }
    if all(len(budgets) <= 1 for budgets in of.values()):
        return "Every method has the same budget."
    told = [f"{command}: {'; '.join(sorted(b))}" for command, b in of.items() if len(b) > 1]
    return f"Budgets DIFFER ({'. '.join(told)})."


def budget(job: Job) -> str:
    """The budget of a training in words: length, batch, size in pixels, width."""
    told = job.settings
    pretraining = job.command == "pretrain"
    length = f"{told['epochs']} epochs" if pretraining else f"{told['iterations']} iterations"
    return (
        f"{length}, batches of {told['batch']}, {told['size']} pixels, "
        f"width {told['network']['width']}"
    )


def summary_tex(plan: Plan, cells: Sequence[Cell]) -> str:
    r"""The table in LaTeX: one row per method, columns by M labelled subjects or N slices.

    It needs the package booktabs. A star marks what is distinguishably better than the baseline, a
    dagger what is distinguishably worse, by the first metric. The file says so.
    """
    columns = [(m, metric) for m in plan.amounts for metric in plan.metrics]
    by_key = {(cell.row, cell.labelled): cell for cell in cells}
    n, headings = len(plan.metrics), row_headings(plan.baseline_row)
    letter = "M" if plan.unit == "subjects" else "N"
    lines = [
        r"% needs \usepackage{booktabs}",
        f"% mean and standard deviation over test subjects; * better, \\dagger worse than "
        f"{plan.baseline_row} by {METRIC_NAMES[plan.metrics[0]]}; how it is tested: summary.md",
        rf"\begin{{tabular}}{{{'l' * len(headings)}{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(
            [
                *([""] * len(headings)),
                *(rf"\multicolumn{{{n}}}{{c}}{{${letter}={m}$}}" for m in plan.amounts),
            ]
        )
        + r" \\",
        " & ".join([*headings, *(METRIC_NAMES[metric] for _, metric in columns)]) + r" \\",
        r"\midrule",
    ]
    for row in plan.rows:
        shown = []
        for m, metric in columns:
            cell = by_key[row, m]
            if not cell.complete:
                shown.append("--")
                continue
            measure, digits = cell.measures[metric], DIGITS[metric]
            found = cell.against[metric] if metric == plan.metrics[0] else None
            mark = ""
            if found is not None and found.distinguishable:
                mark = "^{*}" if (found.mean > 0) == (metric in OVERLAPS) else r"^{\dagger}"
            std = "" if math.isnan(measure.std) else rf" \pm {measure.std:.{digits}f}"
            shown.append(f"${measure.mean:.{digits}f}{std}{mark}$")
        names = (name.translate(_LATEX) for name in row.split(" | "))
        lines.append(" & ".join([*names, *shown]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
