"""Volumes that are hardly alike, such as those of different body parts."""

from collections.abc import Sequence

import numpy as np

from poscon.alignment.likeness import squared_distances

MOST = 200
"""Volumes that are looked at; of more, an even sample."""
NEIGHBOURS = 5
FEWEST = 3
"""Volumes in the smaller of two groups."""
LINKED = 0.05
"""Share of the links of the smaller group that lead to the other, below which they are two."""


def find_groups(
    volumes: Sequence[np.ndarray], subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find whether the volumes fall into two groups.

    Each volume is linked with the five of other subjects that have the most similar slices. The
    links are cut where the fewest of them are lost, measured against the links of the smaller part
    (the sweep cut along the second eigenvector of the normalised Laplacian; von Luxburg, Statistics
    and Computing 2007).

    Args:
        volumes: (slices, K), features of each volume.
        subjects: (V,) the subject of each volume.

    Returns:
        The numbers of the volumes of either group, the larger group first; None: they are one.
    """
    shown = np.unique(np.linspace(0, len(volumes) - 1, min(MOST, len(volumes))).astype(np.int64))
    n = len(shown)
    distances = np.full((n, n), np.inf)
    for a in range(n):
        for b in range(a):
            if subjects[shown[a]] != subjects[shown[b]]:
                distances[a, b] = distances[b, a] = chamfer(volumes[shown[a]], volumes[shown[b]])
    if np.isfinite(distances).sum(axis=1).min() < NEIGHBOURS:
        return None
    links = np.zeros((n, n))
    np.put_along_axis(links, np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS], 1, 1)
    links += links.T
    degrees = links.sum(axis=1)
    laplacian = np.eye(n) - links / np.sqrt(degrees[:, None] * degrees)
    _, vectors = np.linalg.eigh(laplacian)
    order = np.argsort(vectors[:, 1] / np.sqrt(degrees), kind="stable")
    best = min(
        range(FEWEST, n - FEWEST + 1),
        key=lambda cut: _lost(links, degrees, order[:cut], order[cut:]),
        default=0,
    )
    parts = order[:best], order[best:]
    if not best or _lost(links, degrees, *parts) >= LINKED:
        return None
    first, second = (np.sort(shown[part]) for part in sorted(parts, key=len, reverse=True))
    return first, second


def chamfer(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of the slices of one volume to the nearest ones of another.

    It is taken for the volume of which it is smaller, because one may show a part of the other.

    Args:
        first: (N, D), features of the slices of one volume.
        second: (M, D), of the other.
    """
    distances = squared_distances(first, second)
    return float(min(distances.min(axis=1).mean(), distances.min(axis=0).mean()))


def _lost(links: np.ndarray, degrees: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """The share of the links of the smaller part that lead to the other (conductance)."""
    lost = links[np.ix_(one, other)].sum()
    return float(lost / min(degrees[one].sum(), degrees[other].sum()))
