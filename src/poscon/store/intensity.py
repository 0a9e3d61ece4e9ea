"""Intensity normalisation of one volume, with what is needed to say what was done."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from poscon.errors import PosconError
from poscon.volumes.label_maps import looks_like_label_map
from poscon.volumes.slabs import present_values, slabs, slowest_first

CT_PERCENTILES = (1.0, 99.0)
OUTER_PERCENTILES = (1.0, 99.0)
"""Nearly all values of a scan lie between these; they tell scans of different kinds apart."""
SAMPLED_VOXELS = 2**18
"""About as many voxels are enough for these percentiles."""
AIR_HU = -1000.0
LOWEST_HU = -1024.0
"""The lower limit of the usual 12 bits: what is below is noise or the edge of padding."""
PADDING_BELOW_HU = -1200.0
PADDING_SHARE = 1e-3
PADDING_VOXELS = 10
"""In CT, one value below ``PADDING_BELOW_HU`` in so many of the voxels is padding, not anatomy."""
HOUNSFIELD_AIR = -200.0
"""A voxel this low or lower means Hounsfield units, where nobody says what the modality is."""


@dataclass(frozen=True)
class Intensity:
    """What was done to the intensities: clip to [low, high] if given, then (x - mean) / std.

    Attributes:
        modality: ``"CT"`` or ``"MR"``.
        low: lower limit, or None.
        high: upper limit, or None.
        mean: mean of the clipped voxels that count.
        std: standard deviation of the same voxels.
        padding: share of the voxels that are padding of a CT: outside the circle that was
            scanned, or added afterwards.
        percentiles: 1st and 99th percentile of the normalised voxels that count, by voxels at equal
            distances. They do not change when the intensities are scaled.
    """

    modality: str
    low: float | None
    high: float | None
    mean: float
    std: float
    padding: float
    percentiles: tuple[float, float]


def guess_modality(volume: np.ndarray) -> str:
    """``"CT"`` if the values look like Hounsfield units, else ``"MR"``."""
    return "CT" if volume.min() <= HOUNSFIELD_AIR else "MR"


def check_voxels(volume: np.ndarray, *, where: str) -> None:
    """Refuse a volume whose values cannot be normalised.

    Raises:
        PosconError: a voxel is NaN or infinite, or all voxels are equal, in single precision; the
            volume is a label map by its values.
    """
    ordered = slowest_first(volume)
    bad, least, most = 0, np.float32(np.inf), np.float32(-np.inf)
    for values in _single(ordered):
        finite = np.isfinite(values)
        bad += int(values.size - finite.sum())
        if not bad:
            least, most = min(least, values.min()), max(most, values.max())
    if bad:
        raise PosconError(
            f"{where}: {bad} voxel(s) are NaN or infinite; replace them or leave the file out"
        )
    if least == most:
        raise PosconError(
            f"{where}: every voxel has the value {least:g}, there is nothing to see; "
            "leave the file out"
        )
    if looks_like_label_map(volume):
        raise PosconError(
            f"{where}: looks like a label map, not a scan ({len(present_values(volume))} whole "
            "values); name it so that it is read as one (docs/reference/layouts.md), or leave it "
            "out"
        )


def _padding_values(volume: np.ndarray) -> dict[float, int]:
    """The values that are padding of a CT, each with the number of its voxels.

    Scanners and converters write a constant far below air where nothing was scanned: -2000, -2048,
    -3024 and others.
    """
    # a value that has its share of the whole has it in some part too
    candidates: set[float] = set()
    for values in _single(volume):
        found, counts = np.unique(values[values < PADDING_BELOW_HU], return_counts=True)
        candidates.update(found[counts >= PADDING_SHARE * values.size].tolist())
    totals = dict.fromkeys(sorted(candidates), 0)
    for values in _single(volume) if totals else ():
        found, counts = np.unique(values[values < PADDING_BELOW_HU], return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            if value in totals:
                totals[value] += count
    least = max(PADDING_SHARE * volume.size, PADDING_VOXELS)
    return {value: count for value, count in totals.items() if count >= least}


def normalise(volume: np.ndarray, modality: str) -> tuple[np.ndarray, Intensity]:
    """z-score of the volume; CT is clipped to its 1st-99th percentile first, air is the lowest.

    See :func:`intensity_of`.

    Args:
        volume: voxels of any shape that passed :func:`check_voxels`.
        modality: ``"CT"`` or ``"MR"``.

    Returns:
        float32 array of the same shape, and the record of what was done. Where there is no margin
        the mean is 0 and the standard deviation 1.
    """
    intensity = intensity_of(volume, modality)
    values = np.empty(volume.shape, np.float32)
    for part in slabs(volume.shape):
        values[part] = normalised(volume[part], intensity)
    return values, intensity


def normalised(values: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Voxels of a volume, of any shape, with its mean and standard deviation; float32."""
    values = values.astype(np.float32)
    if intensity.low is not None and intensity.high is not None:
        values = values.clip(intensity.low, intensity.high)
    return (values - np.float32(intensity.mean)) / np.float32(intensity.std)


def intensity_of(volume: np.ndarray, modality: str) -> Intensity:
    """What is done to the intensities of a volume.

    The statistics are those of the picture without its empty margin: outer rows, columns and slices
    of one value throughout do not count, so that a scan has the same values inside however widely
    it was cut. Padding within the picture, such as the corners around the circle of a CT, counts as
    air. Why: docs/decisions/0019-padding.md.

    The volume is read part by part. So it takes little memory beside the volume.

    Args:
        volume: voxels of any shape that passed :func:`check_voxels`.
        modality: ``"CT"`` or ``"MR"``.
    """
    padding = _padding_values(volume) if modality == "CT" else {}
    counted = volume[_without_margin(_filled(volume, padding), volume.ndim)]
    if counted.size == 0 or _all_equal(_filled(counted, padding)):  # all but one value is margin
        counted = volume
    low = high = None
    if modality == "CT":
        low, high = _percentiles(lambda: _filled(counted, padding), counted.size, CT_PERCENTILES)
        low = max(low, LOWEST_HU) if high > LOWEST_HU else low
        if low >= high:  # nearly all voxels are equal; clipping would leave nothing
            low = high = None

    def clipped() -> Iterator[np.ndarray]:
        for values in _filled(counted, padding):
            yield values if low is None else values.clip(low, high)

    mean = float(sum(values.sum(dtype=np.float64) for values in clipped()) / counted.size)
    variance = sum(
        np.square(np.subtract(values, mean, dtype=np.float64)).sum() for values in clipped()
    )
    std = float(np.sqrt(variance / counted.size))
    step = _even_step(counted.size, counted.shape)
    outer = np.percentile(_every(clipped(), step), OUTER_PERCENTILES)
    first, last = ((float(value) - mean) / std for value in outer)
    share = sum(padding.values()) / volume.size
    return Intensity(modality, low, high, mean, std, share, (first, last))


def _single(volume: np.ndarray) -> Iterator[np.ndarray]:
    """The volume in parts, in single precision."""
    with np.errstate(over="ignore"):
        for part in slabs(volume.shape):
            yield volume[part].astype(np.float32, order="C")


def _filled(volume: np.ndarray, padding: Collection[float]) -> Iterator[np.ndarray]:
    """The volume in parts, in single precision, with air in place of padding."""
    for values in _single(volume):
        if padding:
            values[np.isin(values, list(padding))] = AIR_HU
        yield values


def _even_step(voxels: int, shape: tuple[int, ...]) -> int:
    """Distance between the voxels of a sample.

    It has no factor in common with an extent, or every row would be sampled at the same few places:
    with a step of one row, in its first column alone, which is air.
    """
    step = max(1, voxels // SAMPLED_VOXELS)
    while any(math.gcd(step, length) > 1 for length in shape):
        step += 1
    return step


def _every(parts: Iterable[np.ndarray], step: int) -> np.ndarray:
    """Every so-manieth voxel of a volume that comes in parts."""
    found, before = [], 0
    for values in parts:
        found.append(values.ravel()[-before % step :: step].copy())  # a view would keep the part
        before += values.size
    return np.concatenate(found)


def _all_equal(parts: Iterable[np.ndarray]) -> bool:
    """Whether a volume that comes in parts has one value throughout."""
    ends = [(values.min(), values.max()) for values in parts]
    return bool(min(low for low, _ in ends) == max(high for _, high in ends))


def _percentiles(
    parts: Callable[[], Iterable[np.ndarray]], size: int, percents: Sequence[float]
) -> list[float]:
    """What :func:`numpy.percentile` gives of float32 values, which come in parts, twice.

    Args:
        parts: gives all values anew.
        size: the number of values.
        percents: from 0 to 100.
    """
    wanted = [(size - 1) * (percent / 100) for percent in percents]
    ranks = sorted({rank for at in wanted for rank in (int(at), min(int(at) + 1, size - 1))})
    # a value's 32 bits, put so that they rise with it: the upper half is found first, then the rest
    upper = np.zeros(2**16, np.int64)
    for values in parts():
        upper += np.bincount((_rising(values) >> 16).ravel(), minlength=2**16)
    ends = np.cumsum(upper)
    halves = np.searchsorted(ends, ranks, side="right")
    lower = {half: np.zeros(2**16, np.int64) for half in halves.tolist()}
    for values in parts():
        bits = _rising(values)
        for half, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == half] & 0xFFFF, minlength=2**16)
    found = {}
    for rank, half in zip(ranks, halves.tolist(), strict=True):
        within = rank - (ends[half] - upper[half])
        rest = np.searchsorted(np.cumsum(lower[half]), within, side="right")
        found[rank] = _value_of(np.uint32(half << 16 | int(rest)))
    between = []
    for at in wanted:
        below, above, share = found[int(at)], found[min(int(at) + 1, size - 1)], at % 1
        step = float(above - below)  # in single precision, and from the nearer end, as in NumPy
        near = share < 0.5
        between.append(float(below) + step * share if near else float(above) - step * (1 - share))
    return between


def _rising(values: np.ndarray) -> np.ndarray:
    """uint32 numbers in the order of float32 values; -0 has that of 0."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31))


def _value_of(bits: np.uint32) -> np.float32:
    """The float32 value of a number of :func:`_rising`."""
    return (bits ^ np.uint32(2**31) if bits >> 31 else ~bits).view(np.float32)


def _without_margin(parts: Iterable[np.ndarray], axes: int) -> tuple[slice, ...]:
    """The box within the outer rows, columns and slices that are of one value throughout.

    Args:
        parts: the volume, in parts along its first axis.
        axes: the number of its axes.
    """
    lows: list[list[np.ndarray]] = [[] for _ in range(axes)]
    highs: list[list[np.ndarray]] = [[] for _ in range(axes)]
    for values in parts:
        others = tuple(range(1, axes))
        lows[0].append(values.min(axis=others))
        highs[0].append(values.max(axis=others))
        low, high = values.min(axis=0), values.max(axis=0)
        for axis in others:
            within = tuple(i - 1 for i in others if i != axis)
            lows[axis].append(low.min(axis=within))
            highs[axis].append(high.max(axis=within))
    box = []
    for axis in range(axes):
        if axis == 0:
            low, high = np.concatenate(lows[0]), np.concatenate(highs[0])
        else:
            low, high = np.min(lows[axis], axis=0), np.max(highs[axis], axis=0)
        varied = np.flatnonzero(high > low)
        box.append(slice(varied[0], varied[-1] + 1) if varied.size else slice(0))
    return tuple(box)
