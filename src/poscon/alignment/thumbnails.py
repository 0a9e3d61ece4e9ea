"""Small pictures of slices, by which volumes are aligned."""

import numpy as np

SIDE = 16
"""Pixels along each side of a small picture."""
FINE = 3 * SIDE
BODY = 0.1
"""Share of the range from the 1st to the 99th percentile above which a pixel is not background."""
FILLED = 0.05
"""Share of a row or column that is not background, from which it belongs to the body."""
FEWEST = 8
"""Rows or columns of a body; with fewer the whole slice is taken."""
FLAT = 1e-3
"""Added to the standard deviation of a small picture, which may be constant."""


def thumbnails(stack: np.ndarray) -> np.ndarray:
    """Describe slices by small pictures of the body in each.

    The box around the body is reduced to 16 x 16 pixels, so that a large patient looks like a
    small one. Each picture is brought to mean 0 and standard deviation 1, because the brightness of
    MR changes along a volume with the distance from the coil.

    Args:
        stack: (slices, channels, rows, columns), intensities as stored.

    Returns:
        (slices, channels * 256) float64. A constant slice is 0.
    """
    volume = np.asarray(stack, np.float32)
    low, high = np.percentile(volume[:, 0], (1, 99))
    threshold = low + BODY * (high - low)
    described = np.zeros((len(volume), volume.shape[1], SIDE * SIDE))
    for number, image in enumerate(volume):
        body = image[0] > threshold
        rows, columns = _extent(body.mean(axis=1)), _extent(body.mean(axis=0))
        box = image[:, rows[:, None], columns]
        small = box.reshape(-1, SIDE, 3, SIDE, 3).mean(axis=(2, 4)).reshape(len(image), -1)
        small = small - small.mean(axis=1, keepdims=True)
        described[number] = small / (small.std(axis=1, keepdims=True) + FLAT)
    return described.reshape(len(volume), -1)


def _extent(filled: np.ndarray) -> np.ndarray:
    """Numbers of the rows (or columns) of a fine grid over the body."""
    inside = np.flatnonzero(filled > FILLED)
    first, last = (inside[0], inside[-1]) if len(inside) >= FEWEST else (0, len(filled) - 1)
    return np.linspace(first, last, FINE).astype(np.int64)
