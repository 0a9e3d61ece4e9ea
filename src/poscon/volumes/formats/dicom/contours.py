"""Contours to pixels."""

from collections.abc import Sequence

import numpy as np

_DIGITS = 6  # of a pixel: an edge through the centres of pixels stays there after a change of axes


def inside_contours(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies inside, by the even-odd rule over all contours together.

    A half-line from the centre crosses the contours an odd number of times. So a contour inside
    another one makes a hole, and so does a keyhole: a contour whose outer and inner part are joined
    by a channel (PS3.3 C.8.8.6.3). A centre on a left or an upper edge is inside, one on a right or
    a lower edge is not. So a pixel belongs to one of two structures that share an edge.

    Args:
        contours: (points, 2) each, column and row in pixels; the centre of the first pixel is
            (0, 0). The last point is joined to the first.
        shape: columns and rows.

    Returns:
        (columns, rows) bool.
    """
    columns, rows = shape
    crossings = np.zeros((columns + 1, rows), np.int64)
    for contour in contours:
        start = np.round(np.asarray(contour, np.float64), _DIGITS)
        end = np.roll(start, -1, axis=0)
        down = start[:, 1:] <= end[:, 1:]
        upper, lower = np.where(down, start, end), np.where(down, end, start)
        # an edge crosses the rows from its upper end on, up to before its lower end
        first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.int64)
        last = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.int64)
        count = last - first
        edge = np.repeat(np.arange(len(start)), count)
        row = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
        share = (row - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
        column = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
        # it lies to the right of the centres 0, 1, ... up to before this number
        before = np.clip(np.ceil(np.round(column, _DIGITS)), 0, columns).astype(np.int64)
        np.add.at(crossings, (before, row), 1)
    to_the_right = np.cumsum(crossings[::-1], axis=0)[::-1][1:]
    return to_the_right % 2 == 1
