"""Slices to stacks: which slices form a volume, in which order, and where it lies.

A stack holds the slices of one series with one size, one orientation and one kind of content. Its
slices are ordered by their place along the normal. Names of files do not count, and numbers of
images only tell apart what lies at one place.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from poscon.volumes.formats.dicom.headers import Image
from poscon.volumes.series import Fault, Mix, OnGap, Series

SAME_DIRECTION = 1e-3
"""Two unit vectors are the same if no component differs by more."""
SAME_PLACE_MM = 0.01
"""Slices this close along the normal lie at one place."""
UNEVEN = 0.05
"""Distances between slices may differ by this share: positions are rounded when written."""
TILTED_DEGREES = 0.1
"""The smallest angle between normal and stack that is a gantry tilt."""
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """A volume or time series, and what a user should know of it.

    Attributes:
        series: how it is read.
        patient: what tells patients apart.
        images: its slices.
        volume: number of its volume among all of the folder, from 1, whatever is done at gaps.
        part: number of the part of that volume, from 1, if it was split at gaps; else None.
        tilt: angle between the normal and the direction of the stack in degrees.
    """

    series: Series
    patient: tuple[str, ...]
    images: tuple[Image, ...]
    volume: int = 0
    part: int | None = None
    tilt: float = 0.0


def make_stacks(
    images: Sequence[Image], on_gap: OnGap
) -> tuple[list[Stack], dict[str, list[Image]]]:
    """Make stacks of slices.

    Args:
        images: slices of any series, in any order.
        on_gap: what to do where slices of a stack are missing or lie at uneven distances.

    Returns:
        The stacks, ordered by the paths of their files; and the slices that form none, by kind.
    """
    stacks: list[tuple[tuple[str, int], Stack]] = []
    keys: list[tuple[str, int]] = []
    left: dict[str, list[Image]] = defaultdict(list)
    for of_series in _grouped(images, lambda image: image.series):
        volumes = [
            volume
            for like in _grouped(of_series, lambda image: (image.size, image.colour))
            for parallel in _parallel(like)
            for volume in _by_kind(parallel)
        ]
        volumes.sort(key=lambda volume: min(_key(image) for image in volume))
        made = []
        for volume in volumes:
            places = _places(volume)
            key = min(_key(image) for image in volume)
            if len(places) > 1:
                keys.append(key)
            parts = _split(places) if on_gap == "split" else [places]
            for n, of_part in enumerate(parts, start=1):
                if len(of_part) > 1:
                    made.append((key, n if len(parts) > 1 else None, of_part))
                else:
                    left["single image(s), which make no volume"] += of_part[0]
        for number, (key, part, of_part) in enumerate(made, start=1):
            stack = _stack(of_part, number if len(made) > 1 else None, on_gap)
            stacks.append((key, replace(stack, part=part)))
    numbers = {key: number for number, key in enumerate(sorted(keys), start=1)}
    numbered = [replace(stack, volume=numbers[key]) for key, stack in stacks]
    return sorted(numbered, key=lambda stack: (stack.volume, stack.part or 0)), dict(left)


def _key(image: Image) -> tuple[str, int]:
    return str(image.piece.file), image.piece.index


def _grouped(images: Iterable[Image], key: Callable[[Image], object]) -> list[list[Image]]:
    groups: dict[object, list[Image]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return list(groups.values())


def _parallel(images: Sequence[Image]) -> list[list[Image]]:
    """Images grouped by their directions and pixel sizes."""
    groups: list[list[Image]] = []
    for image in images:
        for group in groups:
            first = group[0]
            if (
                np.abs(image.along_row - first.along_row).max() <= SAME_DIRECTION
                and np.abs(image.along_column - first.along_column).max() <= SAME_DIRECTION
                and np.allclose(image.pixel_mm, first.pixel_mm, rtol=1e-3)
            ):
                group.append(image)
                break
        else:
            groups.append([image])
    return groups


def _normal(image: Image) -> np.ndarray:
    return np.cross(image.along_row, image.along_column)


def _places(images: Sequence[Image]) -> list[list[Image]]:
    """Images by their place along the normal, in this order."""
    normal = _normal(images[0])
    ordered = sorted(images, key=lambda image: float(normal @ image.position))
    places: list[list[Image]] = []
    for image in ordered:
        if places and normal @ (image.position - places[-1][0].position) <= SAME_PLACE_MM:
            places[-1].append(image)
        else:
            places.append([image])
    return places


def _by_kind(images: Sequence[Image]) -> list[list[Image]]:
    """Images of different kinds, such as magnitude and phase, if every place has each kind."""
    kinds = _grouped(images, lambda image: image.kind)
    if len(kinds) == 1 or not _at_every_place(images, lambda image: image.kind):
        return [list(images)]
    return kinds


def _at_every_place(images: Sequence[Image], value: Callable[[Image], object]) -> bool:
    """Whether the images at every place have the same values, each as often."""
    found = [Counter(value(image) for image in place) for place in _places(images)]
    return all(counts == found[0] for counts in found)


def _distances(places: Sequence[Sequence[Image]]) -> np.ndarray:
    """Mm along the normal from each place to the next."""
    normal = _normal(places[0][0])
    return np.diff([normal @ place[0].position for place in places])


def _uneven(places: Sequence[Sequence[Image]]) -> np.ndarray:
    """Numbers of the places after which the distance to the next is not the usual one."""
    distances = _distances(places)
    usual = np.median(distances)
    return np.flatnonzero(np.abs(distances - usual) > UNEVEN * usual)


def _split(places: list[list[Image]]) -> list[list[list[Image]]]:
    """The parts of a stack that have even distances."""
    if len(places) < 3:
        return [places]
    ends = [*(int(number) + 1 for number in _uneven(places)), len(places)]
    return [places[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _stack(places: list[list[Image]], part: int | None, on_gap: OnGap) -> Stack:
    """The stack of images that are ordered by their place.

    Args:
        places: the images at each place, at least two places.
        part: number of the stack in its series, if there are several.
        on_gap: see :func:`make_stacks`.
    """
    images = tuple(image for place in places for image in place)
    series = Series(
        place=_description(images, part),
        modality=images[0].modality,
        pieces=tuple(image.piece for image in images),
    )
    fault = _fault(places, on_gap)
    if fault is not None:
        return Stack(replace(series, fault=fault), images[0].patient, images)
    frames = _frames(places)
    first = frames[0]
    mixes = _mixes(places) if on_gap == "interpolate" else ()
    slices = len(mixes) or len(places)
    step = (first[-1].position - first[0].position) / (slices - 1)
    affine = np.eye(4)
    affine[:3, 0] = first[0].along_row * first[0].pixel_mm[1]
    affine[:3, 1] = first[0].along_column * first[0].pixel_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = first[0].position
    cosine = float(step @ _normal(first[0]) / np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    rows, columns = first[0].size
    shape = (columns, rows, slices, *([len(frames)] if len(frames) > 1 else []))
    series = replace(
        series,
        shape=shape,
        affine=tuple(map(tuple, (_RAS_FROM_LPS @ affine).tolist())),
        pieces=tuple(image.piece for frame in frames for image in frame),
        mixes=mixes,
    )
    tilt = tilt if tilt > TILTED_DEGREES else 0.0
    return Stack(series, images[0].patient, images, tilt=tilt)


def _description(images: Sequence[Image], part: int | None) -> str:
    """The first file, and the number of the series."""
    words = [f"{len({image.piece.file for image in images})} file(s)"]
    if images[0].number is not None:
        words.insert(0, f"series {images[0].number}")
    if part is not None:
        words.append(f"part {part}")
    return f"{min(str(image.piece.file) for image in images)} ({', '.join(words)})"


def _fault(places: list[list[Image]], on_gap: OnGap) -> Fault | None:
    """Why images that are ordered by their place form no volume; None if they do."""
    first = places[0][0]
    if first.colour:
        return Fault("colour images; poscon reads one number per pixel: move them away")
    usual = Counter(len(place) for place in places).most_common(1)[0][0]
    for number, place in enumerate(places, start=1):
        if len(place) > usual:
            names = " and ".join(image.piece.file.name for image in place[:2])
            return Fault(
                f"{len(place)} images at the place of slice {number} of {len(places)}, {usual} at "
                f"the others ({names}); move away those that do not belong to it"
            )
        if len(place) < usual:
            return Fault(
                f"{len(place)} images at the place of slice {number} of {len(places)}, {usual} at "
                f"the others (beside {place[0].piece.file.name}); export the series again"
            )
    line = places[-1][0].position - places[0][0].position
    line = line / np.linalg.norm(line)
    for number, place in enumerate(places, start=1):
        for image in place:
            away = image.position - places[0][0].position
            off = float(np.linalg.norm(away - (away @ line) * line))
            if off > max(SAME_PLACE_MM, UNEVEN * min(first.pixel_mm)):
                return Fault(
                    f"slice {number} of {len(places)} lies {off:.3g} mm beside the line of the "
                    f"others ({image.piece.file.name}); they form no volume: move them away"
                )
    return None if on_gap == "interpolate" else _gap(places)


def _gap(places: list[list[Image]]) -> Fault | None:
    """Where slices are missing or lie at uneven distances; None if nowhere."""
    distances = _distances(places)
    uneven = _uneven(places)
    if not len(uneven):
        return None
    usual, number = float(np.median(distances)), int(uneven[0])
    names = [places[n][0].piece.file.name for n in (number, number + 1)]
    ratio = distances[number] / usual
    missing = round(ratio) - 1
    what = "distances are uneven"
    if missing > 0 and abs(ratio - missing - 1) <= UNEVEN * (missing + 1):
        what = f"{missing} missing"
    more = f", and {len(uneven) - 1} more gaps" if len(uneven) > 1 else ""
    return Fault(
        f"slices {number + 1} and {number + 2} of {len(places)} are {distances[number]:.4g} mm "
        f"apart, others {usual:.4g} mm: {what} between {' and '.join(names)}{more}; export the "
        "series again, or say --on-gap interpolate or split"
    )


def _frames(places: list[list[Image]]) -> list[list[Image]]:
    """The slices of each frame, in the order of their place.

    What every place has tells frames apart: echo time, b-value, time and so on. The number of the
    image decides between those that are equal in all of this.
    """
    images = [image for place in places for image in place]
    telling = [
        number
        for number in range(len(images[0].order))
        if _at_every_place(images, lambda image, n=number: image.order[n])  # type: ignore[misc]
    ]
    ordered = [
        sorted(place, key=lambda i: (*(i.order[n] for n in telling), i.image_number, _key(i)))
        for place in places
    ]
    return [list(frame) for frame in zip(*ordered, strict=True)]


def _mixes(places: list[list[Image]]) -> tuple[Mix, ...]:
    """How slices at even distances are made of those that are there; empty if these are even."""
    if not len(_uneven(places)):
        return ()
    heights = np.concatenate([[0.0], np.cumsum(_distances(places))])
    slices = round(heights[-1] / float(np.median(np.diff(heights)))) + 1
    mixes = []
    for height in np.linspace(0, heights[-1], slices):
        above = min(max(int(np.searchsorted(heights, height)), 1), len(heights) - 1)
        weight = (height - heights[above - 1]) / (heights[above] - heights[above - 1])
        near = round(float(weight))  # a slice that is there stays as it is
        mixes.append(Mix(above - 1, above, float(near if abs(weight - near) <= UNEVEN else weight)))
    return tuple(mixes)
