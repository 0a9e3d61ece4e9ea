"""What a slice's position is: the number that tells which slices of two patients correspond."""

import numpy as np


def relative_positions(n_slices: int) -> np.ndarray:
    """Position of each slice along its volume's slice axis.

    ``p_i = (i + 1) / n`` for slice index ``i = 0 .. n - 1`` (Zeng et al. 2021, Sec. 2.1), so the
    last slice is at 1 and two volumes of any slice count share one scale. The direction of the
    slice axis must be the same in all volumes; the store sees to that from the affines.

    Returns:
        (n_slices,) float64 in (0, 1].
    """
    return np.arange(1, n_slices + 1) / n_slices


def neighbours(numbers: np.ndarray, n_slices: int | np.ndarray, context: int) -> np.ndarray:
    """Numbers of each slice's neighbours and of itself; at the ends the end slice repeats.

    Args:
        numbers: (N,) numbers of slices, from 0.
        n_slices: number of slices of the volume, or (N,) that of each volume.
        context: how many neighbours on each side, k.

    Returns:
        (N, 2k + 1), from the lowest number to the highest.
    """
    around = numbers[:, None] + np.arange(-context, context + 1)
    last = np.reshape(n_slices, (-1, 1)) - 1
    return np.clip(around, 0, last)
