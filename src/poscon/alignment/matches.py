"""Slices, and those of other subjects that look most like them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from poscon.alignment.likeness import squared_distances

VOLUMES = 200
"""Volumes in which alike slices are looked for. Of more it is half an even sample, and half an even
sample of the first volumes of the subjects."""
SLICES = 4000
"""Slices that are matched in all; of more, an even sample of each volume ..."""
FEWEST = 20
"""... but so many of each volume at least, if it has them."""
CHUNK = 500


@dataclass(frozen=True)
class Matches:
    """Slices, and those of other subjects that look most like them.

    Attributes:
        volumes: (Q,) the volume of each slice.
        slices: (Q,) its number.
        others: (Q, K) the volumes of those that look like it.
        their_slices: (Q, K) their numbers.
    """

    volumes: np.ndarray
    slices: np.ndarray
    others: np.ndarray
    their_slices: np.ndarray

    def logarithms(
        self, coordinates: Sequence[np.ndarray], theirs: Sequence[np.ndarray], step: float
    ) -> np.ndarray:
        """(Q, K) logarithms of (distance plus step), from each slice to those that look like it.

        With the step, differences below it count little.

        Args:
            coordinates: (slices,) of each volume, in mm, for the slices.
            theirs: the same for those that look like them.
            step: mm, the usual distance from one slice to the next.
        """
        begins = np.cumsum([0, *(len(at) for at in coordinates[:-1])])
        own = np.concatenate(coordinates)[begins[self.volumes] + self.slices]
        other = np.concatenate(theirs)[begins[self.others] + self.their_slices]
        return np.asarray(np.log(np.abs(own[:, None] - other) + step))


def nearest_slices(
    components: Sequence[np.ndarray],
    informative: Sequence[np.ndarray],
    subjects: Sequence[str],
    most: int,
) -> Matches:
    """Match slices with the ones of all other subjects that look most like them.

    Args:
        components: (slices, K) of each volume, see :func:`poscon.alignment.likeness.compact`.
        informative: (slices,) bool of each volume; others, such as blank ones, are left out.
        subjects: (V,) the subject of each volume, two at least.
        most: slices that each is matched with, at most.
    """
    base = _Base(components, informative, subjects)
    others = len(base.volume) - int(np.bincount(base.names[base.volume]).max())
    k = min(most, others)  # so many has even the largest subject
    nearest = [np.argpartition(distances, k - 1)[:, :k] for distances in base.distances(components)]
    return base.matches(np.concatenate(nearest))


def nearest_of_volumes(
    components: Sequence[np.ndarray],
    informative: Sequence[np.ndarray],
    subjects: Sequence[str],
    most: int,
) -> Matches:
    """Match slices with one of each of the volumes that look most like them there.

    As :func:`nearest_slices`, but of a volume only the nearest slice counts. So a slice is compared
    with more volumes.
    """
    base = _Base(components, informative, subjects)
    begins = np.flatnonzero(np.r_[True, base.volume[1:] != base.volume[:-1]])
    owners = base.names[base.volume[begins]]
    k = min(most, len(owners) - int(np.bincount(owners).max()))
    nearest = []
    for distances in base.distances(components):
        least = np.minimum.reduceat(distances, begins, axis=1)
        chosen = np.argpartition(least, k - 1)[:, :k]
        found = np.empty_like(chosen)
        for number in np.unique(chosen):
            rows, columns = np.nonzero(chosen == number)
            end = begins[number + 1] if number + 1 < len(begins) else len(base.volume)
            within = distances[rows, begins[number] : end]
            found[rows, columns] = begins[number] + within.argmin(axis=1)
        nearest.append(found)
    return base.matches(np.concatenate(nearest))


class _Base:
    """The slices in which alike ones are looked for, and those for which they are.

    Attributes:
        names: (V,) the number of the subject of each volume.
        volume: (N,) the volume of each slice that may be found.
        number: (N,) its number there.
        asked: (Q, 2) volume and number of each slice that is matched.
    """

    def __init__(
        self,
        components: Sequence[np.ndarray],
        informative: Sequence[np.ndarray],
        subjects: Sequence[str],
    ) -> None:
        self.names = np.unique(np.asarray(subjects, str), return_inverse=True)[1]
        numbers = [np.flatnonzero(good) for good in informative]
        with_slices = np.array([i for i, each in enumerate(numbers) if len(each)])
        shown = with_slices
        if len(with_slices) > VOLUMES:  # the first volumes, so that there are several subjects
            firsts = with_slices[np.unique(self.names[with_slices], return_index=True)[1]]
            half = VOLUMES // 2
            shown = np.union1d(
                firsts[_sample(len(firsts), half)], with_slices[_sample(len(with_slices), half)]
            )
        self.volume = np.repeat(shown, [len(numbers[i]) for i in shown])
        self.number = np.concatenate([numbers[i] for i in shown])
        self.x = np.concatenate([components[i][numbers[i]] for i in shown])
        most = max(FEWEST, SLICES // len(components))
        self.asked = np.array(
            [(i, each[n]) for i, each in enumerate(numbers) for n in _sample(len(each), most)]
        )

    def distances(self, components: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """(rows, N) squared distances of the slices that are matched, infinite within a subject."""
        for start in range(0, len(self.asked), CHUNK):
            rows = slice(start, start + CHUNK)
            y = np.stack([components[i][n] for i, n in self.asked[rows]])
            distances = squared_distances(y, self.x)
            same = self.names[self.asked[rows, 0]][:, None] == self.names[self.volume]
            distances[same] = np.inf
            yield distances

    def matches(self, nearest: np.ndarray) -> Matches:
        volumes, slices = self.asked.T
        return Matches(volumes, slices, self.volume[nearest], self.number[nearest])


def _sample(n: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to n - 1, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
