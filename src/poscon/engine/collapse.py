"""Saying so when a pre-training learns nothing."""

from poscon.progress import console

STUCK = 0.99
"""A loss above this share of chance is no better than that of a network that knows nothing."""
PATIENCE = 3


class CollapseWatch:
    """Warns after some chunks of training, and at the end, if the loss has not left chance.

    A method without a chance level is never warned of.
    """

    def __init__(self) -> None:
        self.stuck = 0
        self.row: dict[str, float] = {}

    def __call__(self, row: dict[str, float]) -> dict[str, float]:
        """Look at one row of metrics.csv; has nothing to add to it."""
        self.row = row
        self.stuck = self.stuck + 1 if row["loss"] > STUCK * row.get("chance", float("inf")) else 0
        if self.stuck == PATIENCE:
            self._warn("has not left")
        return {}

    def finish(self) -> None:
        """Look at the last row once more."""
        if self.stuck:
            self._warn("ended at")

    def _warn(self, what: str) -> None:
        console.print(
            f"[bold yellow]warning[/]: the loss {what} chance (loss {self.row['loss']:.3f}, chance "
            f"{self.row['chance']:.3f}, step {self.row['step']:.0f}): the encoder has not learnt "
            "its task. Norm in head and bottleneck, AdamW or more epochs help: see "
            "docs/explanation/collapse.md",
            soft_wrap=True,
        )
