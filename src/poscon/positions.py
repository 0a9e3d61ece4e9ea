"""What a slice's position is: the number that tells which slices of two patients correspond."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from poscon.errors import PosconError

PositionName = Literal["relative", "physical", "learned"]


class Axis(Protocol):
    """Coordinates in mm of the first and the last slice on an axis that all volumes share."""

    @property
    def first(self) -> float: ...
    @property
    def last(self) -> float: ...


class SliceStack(Protocol):
    """What a position can depend on. A :class:`poscon.store.manifest.CaseRecord` is one.

    Attributes:
        shape: (slices, rows, columns).
        spacing: mm along them.
        axis: where it lies on the axis of all volumes; None: it was not aligned.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def spacing(self) -> tuple[float, float, float]: ...
    @property
    def axis(self) -> Axis | None: ...


def relative_positions(n_slices: int) -> np.ndarray:
    """Position of each slice along its volume's slice axis.

    ``p_i = (i + 1) / n`` for slice index ``i = 0 .. n - 1`` (Zeng et al. 2021, Sec. 2.1), so the
    last slice is at 1 and two volumes of any slice count share one scale. The direction of the
    slice axis must be the same in all volumes; the store sees to that from the affines.

    Returns:
        (n_slices,) float64 in (0, 1].
    """
    return np.arange(1, n_slices + 1) / n_slices


def physical_positions(n_slices: int, spacing: float) -> np.ndarray:
    """Position of each slice in millimetres from the middle of its volume.

    ``p_i = (i - (n - 1) / 2) * spacing`` for slice index ``i = 0 .. n - 1``. The middle of the
    volume is at 0. It is the only point that all scans have, because their headers put the origin
    anywhere.

    Args:
        n_slices: number of slices, n.
        spacing: mm from the centre of a slice to the centre of the next one.

    Returns:
        (n_slices,) float64, rising, in mm.
    """
    return (np.arange(n_slices) - (n_slices - 1) / 2) * spacing


def learned_positions(n_slices: int, axis: Axis | None) -> np.ndarray:
    """Position of each slice on the axis that all volumes share, see :mod:`poscon.alignment`.

    Args:
        n_slices: number of slices.
        axis: the coordinates of the first and the last slice.

    Returns:
        (n_slices,) float64, at equal steps; falling if the volume runs against most of them.

    Raises:
        PosconError: the volume was not aligned.
    """
    if axis is None:
        raise PosconError(
            "position learned: the store has no learned positions; use poscon align first"
        )
    return np.linspace(axis.first, axis.last, n_slices)


@dataclass(frozen=True)
class PositionKind:
    """A kind of position.

    Attributes:
        of_slices: from a volume to the position of each of its slices, (slices,) float64.
        unit: unit of a position and of a distance; empty: a share of the volume.
        limits: the lowest and the highest position that any volume can have; None: that depends
            on the volumes.
    """

    of_slices: Callable[[SliceStack], np.ndarray]
    unit: str
    limits: tuple[float, float] | None

    @property
    def in_unit(self) -> str:
        """`` in mm``, for a text; empty if there is no unit."""
        return f" in {self.unit}" if self.unit else ""


POSITIONS: dict[PositionName, PositionKind] = {
    "relative": PositionKind(lambda stack: relative_positions(stack.shape[0]), "", (0.0, 1.0)),
    "physical": PositionKind(
        lambda stack: physical_positions(stack.shape[0], stack.spacing[0]), "mm", None
    ),
    "learned": PositionKind(
        lambda stack: learned_positions(stack.shape[0], stack.axis), "mm", None
    ),
}
"""Every kind of position by its name, the value of the setting ``position``."""


def neighbours(numbers: np.ndarray, n_slices: int | np.ndarray, context: int) -> np.ndarray:
    """Numbers of each slice's neighbours and of itself; at the ends the end slice repeats.

    Args:
        numbers: (N,) numbers of slices, from 0.
        n_slices: number of slices of the volume, or (N,) that of each volume.
        context: how many neighbours on each side, k.

    Returns:
        (N, 2k + 1), from the lowest number to the highest.
    """
    around = numbers[:, None] + np.arange(-context, context + 1)
    last = np.reshape(n_slices, (-1, 1)) - 1
    return np.clip(around, 0, last)
