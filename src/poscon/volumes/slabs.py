"""Parts of a volume: what is computed part by part needs little memory beside the volume."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

SLAB_VOXELS = 2**19
"""About as many voxels are worked on at once."""


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges along the first axis of an array, each of about ``SLAB_VOXELS`` voxels.

    Args:
        shape: shape of the array. A range has at least one index, however many voxels that is.
    """
    step = max(1, SLAB_VOXELS // max(1, math.prod(shape[1:])))
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def slowest_first(volume: np.ndarray) -> np.ndarray:
    """A view of an array whose first axis has the largest step in memory, and so on."""
    return volume.transpose(_memory_order(volume))


def by_slabs(
    function: Callable[[np.ndarray], np.ndarray], volume: np.ndarray, dtype: DTypeLike
) -> np.ndarray:
    """A function of every voxel, called part by part.

    Args:
        function: from voxels to as many values; each must depend on its own voxel alone.
        volume: an array with at least one axis.
        dtype: of the result.

    Returns:
        An array of the same shape, in the same order in memory.
    """
    order = _memory_order(volume)
    result = np.empty_like(volume, dtype=dtype, subok=False)
    ordered, target = volume.transpose(order), result.transpose(order)
    for part in slabs(ordered.shape):
        target[part] = function(ordered[part])
    return result


def present_values(volume: np.ndarray) -> np.ndarray:
    """The sorted values of an array, each once, as :func:`numpy.unique` gives them."""
    ordered = slowest_first(volume)
    found = [np.unique(ordered[part]) for part in slabs(ordered.shape)]
    return np.unique(np.concatenate([*found, np.zeros(0, volume.dtype)]))


def _memory_order(volume: np.ndarray) -> np.ndarray:
    """The axes of an array, the one with the largest step in memory first."""
    return np.argsort([-abs(step) for step in volume.strides], kind="stable")
