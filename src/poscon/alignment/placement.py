"""Offsets of volumes on the common axis, from the evidence of their pairs."""

import heapq
from collections.abc import Mapping

import numpy as np

from poscon.alignment.pairs import Pairs

STARTS = 8
"""First volumes from which the others are placed."""
ROUNDS = 50
"""Most rounds through all volumes; it has always settled long before."""


def place(pairs: Pairs) -> np.ndarray:
    """Offset of each volume in steps, (V,) int64: where its first row lies on the common axis.

    One volume comes first. Each next one is that which has the most evidence against a volume that
    is placed already; it goes where the sum of the evidence against all placed partners is largest.
    Then all are improved, see :func:`improve`. This is done from several first volumes, those with
    the most evidence, and the result with the largest sum of evidence of all pairs is taken.
    """
    peaks = {pair: float(found.max()) for pair, found in pairs.evidence.items()}
    total = [sum(peaks[i, j] for j in partners) for i, partners in enumerate(pairs.partners)]
    first = np.argsort(np.negative(total), kind="stable")[:STARTS].tolist()
    results = [improve(pairs, _grow(pairs, peaks, seed)) for seed in first]
    return max(results, key=lambda offsets: _agreement(pairs, offsets))


def _agreement(pairs: Pairs, offsets: np.ndarray) -> float:
    """The sum of the evidence of all pairs at their offsets."""
    total = 0.0
    for (i, j), found in pairs.evidence.items():
        at = int(offsets[i] - offsets[j]) + pairs.lengths[i] - 1
        if i < j and 0 <= at < len(found):
            total += float(found[at])
    return total


def _grow(pairs: Pairs, peaks: Mapping[tuple[int, int], float], seed: int) -> np.ndarray:
    """Offsets from a first volume, volume by volume."""
    n = len(pairs.lengths)
    offsets = np.zeros(n, np.int64)
    placed = np.zeros(n, bool)
    waiting: list[tuple[float, int]] = [(0.0, seed)]
    following = iter(range(n))
    while not placed.all():
        if not waiting:  # no partner links the rest with those that are placed
            waiting = [(0.0, next(i for i in following if not placed[i]))]
        _, i = heapq.heappop(waiting)
        if placed[i]:
            continue
        offsets[i] = _best(pairs, i, offsets, placed)
        placed[i] = True
        for j in pairs.partners[i]:
            if not placed[j]:
                heapq.heappush(waiting, (-peaks[j, i], j))
    return offsets


def improve(pairs: Pairs, offsets: np.ndarray) -> np.ndarray:
    """Move one volume after the other to its best place, until none moves.

    The sum of the evidence of all pairs rises with every move, so this ends.
    """
    offsets = offsets.copy()
    everyone = np.ones(len(offsets), bool)
    for _ in range(ROUNDS):
        before = offsets.copy()
        for i in range(len(offsets)):
            offsets[i] = _best(pairs, i, offsets, everyone)
        if (offsets == before).all():
            break
    return offsets


def _best(pairs: Pairs, i: int, offsets: np.ndarray, placed: np.ndarray) -> int:
    """The offset of volume ``i`` with the most evidence against its placed partners.

    Of equally good ones it is the nearest to the offset that it has.
    """
    partners = [j for j in pairs.partners[i] if placed[j]]
    if not partners:
        return int(offsets[i])
    length = pairs.lengths[i]
    low = min(int(offsets[j]) for j in partners) - length + 1
    high = max(int(offsets[j]) + pairs.lengths[j] - 1 for j in partners)
    total = np.zeros(high - low + 1)
    for j in partners:
        found = pairs.evidence[i, j]
        first = int(offsets[j]) - length + 1 - low
        total[first : first + len(found)] += found
    best = np.flatnonzero(total >= total.max() - 1e-9 * max(1.0, abs(total.max())))
    return int(low + best[np.abs(low + best - offsets[i]).argmin()])
