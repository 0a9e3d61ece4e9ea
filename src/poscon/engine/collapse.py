"""Saying so when a pre-training learns nothing."""

from poscon.progress import console

STUCK = 0.02
"""A loss that has come down less than this share of the way from chance to its floor is stuck."""
PATIENCE = 3


def learnt(row: dict[str, float]) -> float:
    """How far the loss has come from chance (0) to its floor (1); 1 where there is no chance level.

    A loss alone does not tell: with PCL's threshold at 0.35 chance and floor are 0.5 apart, and a
    loss that has "moved 3 %" from 4.84 has come more than a quarter of the way.

    Args:
        row: of metrics.csv.
    """
    if "chance" not in row:
        return 1.0
    return (row["chance"] - row["loss"]) / max(row["chance"] - row["floor"], 1e-6)


class CollapseWatch:
    """Warns after some chunks of training, and at the end, if the loss has not left chance."""

    def __init__(self) -> None:
        self.stuck = 0
        self.row: dict[str, float] = {}

    def __call__(self, row: dict[str, float]) -> dict[str, float]:
        """Look at one row of metrics.csv; adds how much has been learnt."""
        self.row = row
        share = learnt(row)
        self.stuck = self.stuck + 1 if share < STUCK else 0
        if self.stuck == PATIENCE:
            self._warn("is still no better than")
        return {"learnt": share} if "chance" in row else {}

    def finish(self) -> None:
        """Look at the last row once more."""
        if self.stuck:
            self._warn("ended no better than")

    def _warn(self, what: str) -> None:
        console.print(
            f"[bold yellow]warning[/]: the loss {what} chance (loss {self.row['loss']:.3f}, chance "
            f"{self.row['chance']:.3f}, step {self.row['step']:.0f}): the encoder has not learnt "
            "its task. Norm in head and bottleneck, AdamW or more epochs help: see "
            "docs/explanation/collapse.md",
            soft_wrap=True,
        )
