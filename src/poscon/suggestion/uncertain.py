"""Uncertain: slices on which a model disagrees with itself."""

from poscon.suggestion.base import Choice, Pool, Strategy, Turns


class Uncertain(Strategy):
    """The most uncertain slice of the subjects that have their turn.

    How uncertain a model is of a slice: see :func:`poscon.suggestion.disagreement.disagreement`.
    """

    summary = "the slices on which the predictions of a model for changed views disagree most"
    citation = "Gaillochet et al., DALI at MICCAI 2022, arXiv 2301.06624"
    needs = "a model (--model)"
    uncertainty = "needed"

    def choose(self, pool: Pool, budget: int, seed: int) -> list[Choice]:
        assert pool.uncertainty is not None
        turns = Turns(pool)
        chosen = []
        for _ in range(budget):
            rows = turns.rows()
            row = int(rows[pool.uncertainty[rows].argmax()])
            reason = f"{turns.before(row)}; the views disagree by {pool.uncertainty[row]:.2g} nats"
            turns.take(row)
            chosen.append(Choice(row, reason))
        return chosen
