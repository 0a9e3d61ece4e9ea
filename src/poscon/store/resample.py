"""In-plane resampling of a stack of slices, and back.

A slice keeps its field of view: the outer edges of the first and the last pixel stay where they
are, so the size is rounded to whole pixels and the spacing follows from it. Going back is then the
same operation with the sizes exchanged.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import interpolate

from poscon.errors import PosconError
from poscon.volumes.case import IGNORE
from poscon.volumes.slabs import slabs

LARGEST = 8192
"""Pixels: no slice of a scan is resampled to more."""
SAME_SPACING = 0.01
"""Relative: spacings this close need no resampling to each other."""
_ROUNDING = 1e-5  # soft masks this close are equal


def resampled_size(
    size: tuple[int, int], spacing: tuple[float, float], target: float | None, where: str
) -> tuple[int, int]:
    """(rows, columns) at ``target`` mm per pixel.

    An axis keeps its size if target is None, or within 1 % of its spacing: interpolating would
    blur more than it corrects.

    Args:
        size: rows and columns.
        spacing: mm per pixel, of rows and of columns.
        target: mm per pixel wanted, or None.
        where: the scan, for an error message.

    Raises:
        PosconError: nothing would be left of the slices, or more than any memory holds.
    """
    if target is None:
        return size
    rows, columns = (
        n if abs(mm / target - 1) <= SAME_SPACING else max(1, round(n * mm / target))
        for n, mm in zip(size, spacing, strict=True)
    )
    vanished = any(new == 1 and n >= 4 for new, n in zip((rows, columns), size, strict=True))
    if vanished or max(rows, columns) > max(LARGEST, *size):
        raise PosconError(
            f"{where}: spacing {target:g} mm would make slices of {rows} x {columns} pixels out of "
            f"{size[0]} x {size[1]}; leave the scan out, or choose another --spacing"
        )
    return rows, columns


def resample_images(stack: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample (S, H, W) to (S, *size), linear, with anti-aliasing where it shrinks; float32."""
    if stack.shape[1:] == size:
        return np.ascontiguousarray(stack, dtype=np.float32)
    slices = torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32))[:, None]
    return _interpolate(slices, size)[:, 0].numpy()


def resample_classes(stack: np.ndarray, size: tuple[int, int], n_classes: int) -> np.ndarray:
    """Resample class indices (S, H, W) to (S, *size), uint8.

    Each class is resampled as a soft mask and the largest wins, of equals the first: no value
    arises between classes. ``IGNORE`` is a value like a class, and the last one. Only where there
    is foreground, which is little of most label maps.
    """
    if stack.shape[1:] == size:
        return np.ascontiguousarray(stack, dtype=np.uint8)
    classes = torch.zeros(len(stack), *size, dtype=torch.uint8)
    sources, targets, weights = [], [], []
    for axis, length in zip((1, 2), size, strict=True):
        source = _extent(np.any(stack, axis=(0, 3 - axis)))
        matrix = _weights(stack.shape[axis], length)[:, source]
        target = _extent(matrix.any(1).numpy())
        sources.append(source)
        targets.append(target)
        weights.append(matrix[target])
    down, across = weights
    for part in slabs(stack.shape):
        inside = torch.from_numpy(stack[part, *sources].copy())  # a flipped view has negative steps
        found = classes[part, *targets]
        largest = 1 - down @ (inside > 0).float() @ across.T  # of the background
        for index in (*range(1, n_classes), IGNORE):
            own = inside == index
            if not own.any():
                continue
            mask = down @ own.float() @ across.T
            larger = mask > largest + _ROUNDING
            found[larger] = index
            largest[larger] = mask[larger]
    return classes.numpy()


def resample_probabilities(stack: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample class scores (S, C, H, W) to (S, C, *size)."""
    return stack if tuple(stack.shape[2:]) == size else _interpolate(stack, size)


def _extent(occupied: np.ndarray) -> slice:
    """From the first True to the last of (N,); empty if there is none."""
    where = np.flatnonzero(occupied)
    return slice(where[0], where[-1] + 1) if len(where) else slice(0, 0)


@lru_cache(maxsize=16)
def _weights(length: int, target: int) -> torch.Tensor:
    """The matrix (target, length) by which :func:`_interpolate` resamples an axis."""
    twice = torch.eye(length).repeat(1, 2)[None, None]  # never a single column: see there
    return _interpolate(twice, (target, 2 * length))[0, 0, :, :length]


def _interpolate(slices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if size[1] == 1:  # torch's own (seen in 2.13) repeats the first row where one column results
        down, across = (
            _weights(old, new).to(slices) for old, new in zip(slices.shape[2:], size, strict=True)
        )
        return down @ slices @ across.T
    return interpolate(slices, size=size, mode="bilinear", antialias=True, align_corners=False)
