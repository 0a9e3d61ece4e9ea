"""Ends: as spread, with more slices at the first and the last sixth of the stack."""

from poscon.suggestion.spread import Spread

END = 1 / 6
"""Length of each end, as a share of the stack."""
SHARE = 1 / 4
"""Share of the choices that falls into each end."""


class Ends(Spread):
    """Half of the choices lie in the outer third of the stack, twice as dense as in the middle.

    A network that works slice by slice often errs at the first and the last slices of a structure.
    """

    summary = "as spread, with half of the slices in the first and the last sixth of the stack"
    needs_positions = True
    stream_name = "ends"

    def place(self, share: float) -> float:
        if share < SHARE:
            return share * END / SHARE
        if share >= 1 - SHARE:
            return 1 - (1 - share) * END / SHARE
        return END + (share - SHARE) * (1 - 2 * END) / (1 - 2 * SHARE)
