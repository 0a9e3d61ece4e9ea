"""Whether a curve still rose when the training ended."""

from collections.abc import Sequence

import numpy as np

LEAST = 0.005
"""A rise over the last third that is worth more steps, in units of the curve (Dice, a share)."""


def rise_at_end(values: Sequence[float]) -> float:
    """How much a curve rises over its last third, where that can be told from its noise; else 0.

    A line is fitted to the last third of the values by least squares, at least four of them. The
    rise counts if it is at least :data:`LEAST` and at least twice its standard error.

    Args:
        values: the value at each checkpoint, evenly spaced, in their order.

    Returns:
        The rise of the line from the first of these values to the last, in the unit of the values.
    """
    last = np.asarray(values[-max(4, len(values) // 3) :], dtype=np.float64)
    if len(last) < 4:
        return 0.0
    steps = np.arange(len(last)) - (len(last) - 1) / 2
    slope = float(steps @ last / (steps @ steps))
    residuals = last - last.mean() - slope * steps
    error = float(np.sqrt(residuals @ residuals / (len(last) - 2) / (steps @ steps)))
    rise = slope * (len(last) - 1)
    return rise if rise >= LEAST and slope >= 2 * error else 0.0
