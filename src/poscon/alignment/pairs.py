"""Which volumes are compared with which, and the evidence of every such pair."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from poscon.alignment.likeness import evidence
from poscon.executors import usable_cores

ALL_UP_TO = 100
"""Volumes of which every pair is compared."""
PARTNERS = 30
"""With more volumes: random partners that each volume gets, besides those that it is given to."""


@dataclass(frozen=True)
class Pairs:
    """The evidence of pairs of volumes, see :func:`poscon.alignment.likeness.evidence`.

    Attributes:
        lengths: number of steps of each volume.
        partners: the partners of each volume, rising.
        evidence: by pair (i, j), both ways: evidence of i against j.
        turned: by pair (i, j), i < j: evidence of i against j turned round.
    """

    lengths: tuple[int, ...]
    partners: tuple[tuple[int, ...], ...]
    evidence: dict[tuple[int, int], np.ndarray]
    turned: dict[tuple[int, int], np.ndarray]


def choose_partners(
    subjects: Sequence[str], generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of volumes of different subjects.

    Two volumes of one subject agree whatever is true of them. So they say nothing.

    Args:
        subjects: (V,) the subject of each volume.
        generator: draws the partners of each volume, where there are too many for all pairs.
    """
    n = len(subjects)
    if n <= ALL_UP_TO:
        chosen = {(i, j) for i in range(n) for j in range(i + 1, n)}
    else:
        chosen = {
            (min(i, int(j)), max(i, int(j)))
            for i in range(n)
            for j in generator.choice(n, PARTNERS, replace=False)
        }
    return sorted((i, j) for i, j in chosen if subjects[i] != subjects[j])


def compare(volumes: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]]) -> Pairs:
    """Compare pairs of volumes, in as many threads as there are cores.

    Args:
        volumes: (steps, K) of each volume.
        pairs: numbers (i, j), i < j, of the volumes to compare.
    """
    found: dict[tuple[int, int], np.ndarray] = {}
    turned: dict[tuple[int, int], np.ndarray] = {}
    partners: list[list[int]] = [[] for _ in volumes]
    with ThreadPoolExecutor(usable_cores()) as pool:
        both = list(pool.map(lambda pair: evidence(volumes[pair[0]], volumes[pair[1]]), pairs))
    for (i, j), (ahead, behind) in zip(pairs, both, strict=True):
        found[i, j], turned[i, j] = ahead, behind
        found[j, i] = found[i, j][::-1]
        partners[i].append(j)
        partners[j].append(i)
    lengths = tuple(len(volume) for volume in volumes)
    return Pairs(lengths, tuple(tuple(sorted(p)) for p in partners), found, turned)


def turn(pairs: Pairs, signs: np.ndarray) -> Pairs:
    """The evidence after some volumes were turned round, without a new comparison.

    Args:
        pairs: the evidence before.
        signs: (V,) -1 for a volume that is turned, else 1.
    """
    found: dict[tuple[int, int], np.ndarray] = {}
    turned: dict[tuple[int, int], np.ndarray] = {}
    for (i, j), behind in pairs.turned.items():
        ahead = pairs.evidence[i, j]
        if signs[i] != signs[j]:
            ahead, behind = behind, ahead
        if signs[i] < 0:  # what lay to the left of the first volume lies to its right
            ahead, behind = ahead[::-1], behind[::-1]
        found[i, j], found[j, i], turned[i, j] = ahead, ahead[::-1], behind
    return Pairs(pairs.lengths, pairs.partners, found, turned)
