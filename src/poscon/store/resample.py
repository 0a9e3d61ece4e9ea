"""In-plane resampling of a stack of slices, and back.

A slice keeps its field of view: the outer edges of the first and the last pixel stay where they
are, so the size is rounded to whole pixels and the spacing follows from it. Going back is then the
same operation with the sizes exchanged.
"""

import numpy as np
import torch
from torch.nn.functional import interpolate, one_hot

from poscon.errors import PosconError

LARGEST = 8192
"""Pixels: no slice of a scan is resampled to more."""
SAME_SPACING = 0.01
"""Relative: spacings this close need no resampling to each other."""


def resampled_size(
    size: tuple[int, int], spacing: tuple[float, float], target: float | None
) -> tuple[int, int]:
    """(rows, columns) at ``target`` mm per pixel.

    An axis keeps its size if target is None, or within 1 % of its spacing: interpolating would
    blur more than it corrects.

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
            f"spacing {target:g} mm would make slices of {rows} x {columns} pixels out of "
            f"{size[0]} x {size[1]}; choose another --spacing"
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

    Each class is resampled as a soft mask and the largest wins: no value arises between classes.
    """
    if stack.shape[1:] == size:
        return np.ascontiguousarray(stack, dtype=np.uint8)
    masks = one_hot(torch.from_numpy(np.ascontiguousarray(stack)).long(), n_classes)
    return _interpolate(masks.movedim(-1, 1).float(), size).argmax(1).numpy().astype(np.uint8)


def resample_probabilities(stack: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample class scores (S, C, H, W) to (S, C, *size)."""
    return stack if tuple(stack.shape[2:]) == size else _interpolate(stack, size)


def _interpolate(slices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(slices, size=size, mode="bilinear", antialias=True, align_corners=False)
