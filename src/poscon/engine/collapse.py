"""Saying so when a pre-training has learnt nothing."""

from pathlib import Path

from poscon.engine.run import RunFolder
from poscon.engine.training import MetricsFile
from poscon.progress import console

STUCK = 0.99
"""A loss above this share of chance has learnt nothing worth the name."""


def stuck_at_chance(rows: list[dict[str, str]]) -> bool:
    """Whether the last loss of a run is still at the level of a network that knows nothing.

    Args:
        rows: of metrics.csv; a method without a chance level is never stuck.
    """
    if not rows or not rows[-1].get("chance"):
        return False
    return float(rows[-1]["loss"]) > STUCK * float(rows[-1]["chance"])


def warn_of_collapse(run: RunFolder) -> None:
    """Warn on the terminal if the finished run's loss never left chance."""
    rows = MetricsFile(run).rows()
    if stuck_at_chance(rows):
        console.print(
            f"[bold yellow]warning[/]: the loss ended at {float(rows[-1]['loss']):.3f}, chance is "
            f"{float(rows[-1]['chance']):.3f}: this encoder has learnt nothing. "
            f"More epochs, head.norm=true, network.bottleneck_norm=true or optimiser.name=adamw "
            f"help; see docs/explanation/collapse.md ({Path(run.path)})"
        )
