"""Whether what the images say is to be believed: the places of volumes, and their directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from poscon.alignment.align import Alignment
from poscon.alignment.likeness import squared_distances
from poscon.positions import relative_positions

LESS = 0.9
"""What the images say has to bring alike slices nearer, to this share of their distance."""
NEAREST = 5
"""Slices of other subjects that a slice is matched with."""
VOLUMES = 200
"""Volumes in which they are looked for; of more, an even sample."""
SLICES = 4000
"""Slices that are matched; of more, an even sample of each volume ..."""
FEWEST = 20
"""... but so many of each at least, if it has them."""
CHUNK = 500

Source = Literal["images", "scan"]


@dataclass(frozen=True)
class Believed:
    """The places and directions that are believed.

    Attributes:
        source: ``images``: the volumes lie where :func:`poscon.alignment.align.align` put them.
            ``scan``: they all lie from one end of the axis to the other, as their scans say.
        ends: (V, 2) coordinates in mm of the first and the last slice.
        directions: (V,) 1, or -1 where the slices run against those of the majority.
        determined: (V,) whether the images say where the volume lies; by the scan: never.
        apart: by source, how far apart in mm slices lie that look alike: the geometric mean over
            slices, of the distance and one step from slice to slice.
    """

    source: Source
    ends: np.ndarray
    directions: np.ndarray
    determined: np.ndarray
    apart: dict[Source, float]


def believe(
    components: Sequence[np.ndarray],
    depths: Sequence[np.ndarray],
    subjects: Sequence[str],
    files: Sequence[str],
    found: Alignment,
) -> Believed:
    """Choose between the places that the images give, and those in the scan.

    Where every scan shows the same organ from end to end, the place in the scan says already what a
    slice shows. Images can then mislead: the chests of two patients are alike, and their hearts do
    not lie at one level. So the images are believed where they bring slices that look alike
    clearly nearer to each other, by a tenth at least. Both axes keep their mm, so a volume gains
    nothing by lying far away from the others.

    In the same way, where the places in the scan are believed, a volume is said to run the other
    way only if turning it brings its slices clearly nearer to those that they look like. Their
    places are turned if that brings the slices of all volumes clearly nearer. Else a few volumes
    that are wrongly taken for turned would make the places worse than those in the scan.

    Args:
        components: (slices, K) of each volume, from :func:`poscon.alignment.likeness.compact`. They
            were not fitted to any places.
        depths: (slices,) of each volume, rising, mm along the slice axis.
        subjects: (V,) the subject of each volume; two at least.
        files: (V,) the file of each volume. The frames of one file run the same way.
        found: what the images say.
    """
    matches = _match(components, subjects)
    steps = [np.diff(depth) for depth in depths if len(depth) > 1]
    step = float(np.median(np.concatenate(steps))) if steps else 1.0
    extent = float(np.median([depth[-1] - depth[0] + step for depth in depths]))
    in_scan = [extent * (relative_positions(len(depth)) - 0.5) for depth in depths]
    directions = _confirm(matches, in_scan, found.directions, files, step)
    turned = _turn(in_scan, directions)
    if matches.apart(turned, step) < LESS * matches.apart(in_scan, step):
        in_scan = turned
    by_images = [
        np.linspace(first, last, len(depth))
        for (first, last), depth in zip(found.ends, depths, strict=True)
    ]
    apart: dict[Source, float] = {
        "scan": matches.apart(in_scan, step),
        "images": matches.apart(by_images, step),
    }
    if apart["images"] < LESS * apart["scan"]:
        return Believed("images", found.ends, found.directions, found.determined, apart)
    ends = np.array([(at[0], at[-1]) for at in in_scan])
    return Believed("scan", ends, directions, np.zeros(len(ends), bool), apart)


def _confirm(
    matches: "_Matches",
    in_scan: Sequence[np.ndarray],
    directions: np.ndarray,
    files: Sequence[str],
    step: float,
) -> np.ndarray:
    """(V,) the directions, without the files whose slices come no nearer to those alike."""
    turned = _turn(in_scan, directions)
    nearer = matches.logarithms(turned, turned, step) - matches.logarithms(in_scan, turned, step)
    confirmed = directions.copy()
    names = np.asarray(files, str)
    for name in np.unique(names[directions < 0]):
        if np.exp(nearer[names[matches.volumes] == name].mean()) >= LESS:
            confirmed[names == name] = 1
    return confirmed


def _turn(coordinates: Sequence[np.ndarray], directions: np.ndarray) -> list[np.ndarray]:
    return [at if sign > 0 else at[::-1] for at, sign in zip(coordinates, directions, strict=True)]


@dataclass(frozen=True)
class _Matches:
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

    def apart(self, coordinates: Sequence[np.ndarray], step: float) -> float:
        """See :class:`Believed`, mm."""
        return float(np.exp(self.logarithms(coordinates, coordinates, step).mean()))

    def logarithms(
        self, coordinates: Sequence[np.ndarray], theirs: Sequence[np.ndarray], step: float
    ) -> np.ndarray:
        """(Q,) mean logarithm of distance and step, to the slices that look like each slice.

        An arithmetic mean would be decided by a few slices whose matches are far off. With the step
        differences below it count little.

        Args:
            coordinates: (slices,) of each volume, in mm, for the slices.
            theirs: the same for those that look like them.
            step: mm, the usual distance from one slice to the next.
        """
        begins = np.cumsum([0, *(len(at) for at in coordinates[:-1])])
        own = np.concatenate(coordinates)[begins[self.volumes] + self.slices]
        other = np.concatenate(theirs)[begins[self.others] + self.their_slices]
        return np.asarray(np.log(np.abs(own[:, None] - other) + step).mean(axis=1))


def _match(components: Sequence[np.ndarray], subjects: Sequence[str]) -> _Matches:
    """Match slices of all volumes with slices of other subjects."""
    names = np.unique(np.asarray(subjects, str), return_inverse=True)[1]
    shown = _sample(len(components), VOLUMES)
    x = np.concatenate([components[i] for i in shown])
    volume = np.repeat(shown, [len(components[i]) for i in shown])
    number = np.concatenate([np.arange(len(components[i])) for i in shown])
    most = max(FEWEST, SLICES // len(components))
    asked = [(i, n) for i, each in enumerate(components) for n in _sample(len(each), most)]
    volumes, slices = (np.array(column) for column in zip(*asked, strict=True))
    others = len(x) - np.bincount(names[volume]).max()  # that even the largest subject has
    nearest = np.empty((len(asked), min(NEAREST, others)), np.int64)
    for start in range(0, len(asked), CHUNK):
        rows = slice(start, start + CHUNK)
        y = np.stack([components[i][n] for i, n in asked[rows]])
        distances = squared_distances(y, x)
        distances[names[volumes[rows]][:, None] == names[volume]] = np.inf
        nearest[rows] = np.argpartition(distances, nearest.shape[1] - 1)[:, : nearest.shape[1]]
    return _Matches(volumes, slices, volume[nearest], number[nearest])


def _sample(n: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to n - 1, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
