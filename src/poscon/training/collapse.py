"""Warn when a pre-training learns nothing, and say at the end what came of it."""

from collections.abc import Callable, Sequence

from poscon.progress import console

STUCK = 0.02
"""A loss is stuck if it has come less than this share of the way from chance to its floor."""
ONE_POINT = -0.005
"""Slices with a uniformity above this have nearly the same features."""
ONE_DIRECTION = 1.5
"""Slices whose features have an effective rank below this are nearly the same, too."""
PATIENCE = 3


def learnt(row: dict[str, float]) -> float:
    """How far the loss has come from chance (0) to its floor (1).

    It is 1 where there is no chance level. It is 0 where chance and floor are the same, because
    there is then nothing to learn.

    The loss alone does not show this. With PCL's threshold at 0.35, chance and floor are 0.5
    apart. A loss that has "moved 3 %" from 4.84 has come more than a quarter of the way.

    Args:
        row: a row of metrics.csv.
    """
    if "chance" not in row:
        return 1.0
    way = row["chance"] - row["floor"]
    return (row["chance"] - row["loss"]) / way if way > 1e-3 else 0.0


def symptoms(row: dict[str, float]) -> list[str]:
    """The signs in a row of metrics.csv that nothing is learnt, in words."""
    found = []
    if learnt(row) < STUCK:
        found.append(
            f"the loss is no better than chance (loss {row['loss']:.3f}, "
            f"chance {row['chance']:.3f}): the encoder has not learnt its task"
        )
    spread, rank = row.get("uniformity", -1.0), row.get("effective_rank", float("inf"))
    if spread > ONE_POINT or rank < ONE_DIRECTION:
        found.append(
            "the features have collapsed: to the encoder all slices look alike "
            f"(uniformity {spread:.4f}, effective rank {rank:.2f})"
        )
    return found


class CollapseWatch:
    """Completes the rows of metrics.csv, and warns once if the symptoms last.

    Args:
        measure: function that computes the diagnostics of the encoder as it is now.
    """

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        self.measure = measure
        self.chunks = 0

    def __call__(self, row: dict[str, float]) -> dict[str, float]:
        """Return what is to be added to a row of metrics.csv."""
        values = self.measure()
        if "chance" in row:
            values["learnt"] = learnt(row)
        found = symptoms(row | values)
        self.chunks = self.chunks + 1 if found else 0
        if self.chunks == PATIENCE:
            _warn(f"by step {row['step']:.0f} {'; '.join(found)}")
        return values


def conclude(title: str, rows: Sequence[dict[str, float]], in_unit: str = "") -> None:
    """Say on one line what came of a training. Warn if it ended with symptoms.

    Args:
        title: name of the training.
        rows: rows of metrics.csv. The first is from before the first step.
        in_unit: see :attr:`poscon.positions.PositionKind.in_unit`.
    """
    before, last = rows[0], rows[-1]

    def beside(name: str, form: str, **others: float) -> str:
        if last is not before and name in before:
            others = {"before": before[name], **others}
        text = ", ".join(f"{what} {value:{form}}" for what, value in others.items())
        return f"{last[name]:{form}}" + (f" ({text})" if text else "")

    parts = []
    if "loss" in last:
        levels = {name: last[name] for name in ("chance", "floor") if name in last}
        parts.append(f"loss {beside('loss', '.3f', **levels)}")
    if "effective_rank" in last:
        parts.append(f"effective rank {beside('effective_rank', '.1f')}")
    if "retrieval_error" in last:
        chance = last["retrieval_chance"]
        error = beside("retrieval_error", ".3f", chance=chance)
        parts.append(f"position retrieval error{in_unit} {error}")
    if "phase_error" in last:
        error = beside("phase_error", ".3f", chance=last["phase_chance"])
        parts.append(f"phase retrieval error {error}")
    console.print(f"{title}: {'; '.join(parts)}", soft_wrap=True)
    if "loss" in last and (found := symptoms(last)):
        _warn(f"in the end {'; '.join(found)}")


def _warn(what: str) -> None:
    console.print(
        f"[bold yellow]warning[/]: {what}. What may help: docs/explanation/collapse.md",
        soft_wrap=True,
    )
