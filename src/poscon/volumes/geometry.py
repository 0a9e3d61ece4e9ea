"""Turn a volume in its file's axis order into a stack of slices in canonical orientation, and back.

Both directions only permute and flip array axes. So they are exact.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from poscon.volumes.affine import spacing_of

Plane = Literal["auto", "axial", "coronal", "sagittal"]
_SLICE_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # index of a RAS+ axis
ANISOTROPIC = 1.5
"""A spacing at least this many times the other two is that between slices as acquired."""


@dataclass(frozen=True)
class SliceGeometry:
    """How a file's array becomes a stack of slices.

    The stack's axes are (slice, row, column). Each runs along a canonical direction (RAS+):
    towards right, anterior or superior. So a picture is the right way up when row 0 is drawn at
    the bottom.

    Attributes:
        shape: spatial shape in the file.
        permutation: number of the file axis of each stack axis.
        flips: whether each stack axis runs against its file axis.
        spacing: mm along (slice, row, column).
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``, by the nearest anatomical plane.
    """

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    plane: str

    @property
    def acquired(self) -> str | None:
        """The plane of acquisition, by the spacing. None if it is near isotropic."""
        canonical = [self.spacing[self.canonical_axes.index(axis)] for axis in range(3)]
        axis = _through_plane(canonical)
        return None if axis is None else _plane(axis)

    @property
    def canonical_axes(self) -> tuple[int, int, int]:
        """The RAS+ axis along which each stack axis runs: 0 right, 1 anterior, 2 superior."""
        slices, rows, columns = _canonical_order(_SLICE_AXIS[self.plane])
        return slices, rows, columns

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """The shape (slices, rows, columns) of the stack before any resampling."""
        s, r, c = self.permutation
        return self.shape[s], self.shape[r], self.shape[c]

    def to_stack(self, volume: np.ndarray) -> np.ndarray:
        """Turn (X, Y, Z) in file order into (slices, rows, columns). It is a view, not a copy."""
        axes = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return np.flip(volume.transpose(self.permutation), axes)

    def to_volume(self, stack: np.ndarray) -> np.ndarray:
        """Turn (slices, rows, columns) into (X, Y, Z) in file order. It undoes :meth:`to_stack`."""
        axes = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return np.flip(stack, axes).transpose(np.argsort(self.permutation))


def slice_geometry(
    shape: tuple[int, int, int],
    affine: np.ndarray,
    *,
    plane: Plane = "auto",
    reverse: bool = False,
) -> SliceGeometry:
    """Read orientation, slice axis and spacing off an affine.

    Args:
        shape: spatial shape in the file.
        affine: (4, 4), voxel index to mm, RAS+. An oblique one counts as the nearest orthogonal.
        plane: plane of the slices. ``"auto"`` takes the plane in which the scan was acquired, by
            its spacing between slices, and axial where the voxels are near isotropic.
        reverse: whether to reverse the slices, for a file whose affine has the order wrong.
    """
    spacing = spacing_of(affine)
    import nibabel as nib  # training does not need it

    orientation = nib.io_orientation(affine)  # row i: canonical axis and sign of file axis i
    file_axis = {int(canonical): axis for axis, (canonical, _) in enumerate(orientation)}
    canonical_spacing = [spacing[file_axis[axis]] for axis in range(3)]
    if plane == "auto":
        acquired = _through_plane(canonical_spacing)
        slice_axis = _SLICE_AXIS["axial"] if acquired is None else acquired
    else:
        slice_axis = _SLICE_AXIS[plane]
    permutation = [file_axis[axis] for axis in _canonical_order(slice_axis)]
    flips = [bool(orientation[axis, 1] < 0) for axis in permutation]
    flips[0] ^= reverse
    return SliceGeometry(
        shape=shape,
        permutation=(permutation[0], permutation[1], permutation[2]),
        flips=(flips[0], flips[1], flips[2]),
        spacing=(spacing[permutation[0]], spacing[permutation[1]], spacing[permutation[2]]),
        plane=_plane(slice_axis),
    )


def _canonical_order(slice_axis: int) -> list[int]:
    """The canonical axes of (slice, row, column)."""
    return [slice_axis, *(axis for axis in (2, 1, 0) if axis != slice_axis)]


def _plane(slice_axis: int) -> str:
    return next(name for name, axis in _SLICE_AXIS.items() if axis == slice_axis)


def _through_plane(spacing: list[float]) -> int | None:
    """The canonical axis across the slices as acquired, by spacing. None if it is not clear."""
    widest = int(np.argmax(spacing))
    others = [s for axis, s in enumerate(spacing) if axis != widest]
    return widest if spacing[widest] >= ANISOTROPIC * max(others) else None
