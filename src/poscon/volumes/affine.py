"""Affines from file headers: which one is used, and when two grids lie at the same place."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from poscon.errors import PosconError

Spacing = tuple[float, float, float]
"""Voxel size in mm along the three spatial axes of a file."""

OPTION = "--source-spacing"
"""The command-line option that states the true voxel size."""

SPACING_LIMITS_MM = (0.01, 100.0)
"""No scan of a patient has voxels smaller or larger than this."""
SAME_PLACE = 0.05
"""Two grids lie at the same place if their corners are this close, in smallest voxel sides."""
_MM_PER_UNIT = {
    1: 1000.0,
    2: 1.0,
    3: 0.001,
}  # of NIfTI's xyzt_units; an unknown unit is taken as mm
_LEAST_INDEPENDENT = (
    0.1  # least singular value of the unit axes: 1 if orthogonal, 0 if they share a plane
)
_ROUNDING = 3 * float(np.finfo(np.float32).eps)  # in a quaternion's squared length, as in nibabel
_LEAST_UNIT = 1e-3  # how far a quaternion may be from unit length by rounding


def spacing_of(affine: np.ndarray) -> Spacing:
    """Voxel size in mm. It is the length of each of the affine's first three columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def voxel_mm3(affine: np.ndarray, spacing: Spacing | None = None) -> float:
    """Volume of a voxel in mm3; less than the product of the sides if the axes are oblique.

    The axes of CT with a tilted gantry are: a slice lies further along the table, and not along
    its own normal.

    Args:
        affine: (4, 4), voxel index to mm.
        spacing: mm along the axes; None: that of the affine.
    """
    own = spacing_of(affine)
    share = abs(float(np.linalg.det(affine[:3, :3] / own)))
    return share * float(np.prod(own if spacing is None else spacing))


def checked_affine(
    affines: Sequence[np.ndarray], spacing: Spacing | None, *, where: str, option: str = OPTION
) -> np.ndarray:
    """Choose and check the affine of a file from those that its header states.

    Args:
        affines: affines, each (4, 4), voxel index to mm, RAS+. The first one is used. If it is
            unusable and ``spacing`` is given, the directions come from the first usable one.
        spacing: voxel size in mm along the file's axes, which replaces that of the header; or
            None.
        where: the file, for the message.
        option: the option or argument that states ``spacing``, for the message.

    Returns:
        (4, 4) float64.

    Raises:
        PosconError: the affine is unusable, or the voxel size is impossible. That of ``spacing``
            is checked too.
    """
    affine = affines[0]
    if spacing is None:
        _check_affine(affine, where, option)
        return affine
    low, high = SPACING_LIMITS_MM
    if not all(low <= size <= high for size in spacing):
        raise PosconError(
            f"{option}: must be three sizes from {low:g} to {high:g} mm, not {tuple(spacing)}"
        )
    for stated in affines:
        directions = _directions(stated)
        if directions is not None:
            used = np.eye(4)
            used[:3, :3] = directions * spacing
            used[:3, 3] = stated[:3, 3]
            return used
    raise PosconError(
        f"{where}: its header does not state the directions of its axes, which {option} cannot "
        "replace; correct the header"
    )


def _check_affine(affine: np.ndarray, where: str, option: str) -> None:
    sizes = spacing_of(affine)
    stated = " x ".join(f"{size:.4g}" for size in sizes)
    low, high = SPACING_LIMITS_MM
    if not np.isfinite(affine).all() or min(sizes) == 0:
        problem = f"its affine is singular or not finite (voxels of {stated} mm)"
    elif not all(low <= size <= high for size in sizes):
        problem = (
            f"its affine says that a voxel measures {stated} mm, but no scan of a patient has "
            f"less than {low:g} or more than {high:g} mm"
        )
    elif _directions(affine) is None:
        problem = "its affine is singular (two of its axes have the same direction)"
    else:
        return
    raise PosconError(f"{where}: {problem}; correct it or state the voxel size with {option}")


def _directions(affine: np.ndarray) -> np.ndarray | None:
    """The directions as (3, 3) unit columns, or None if the affine does not state them."""
    if not np.isfinite(affine).all():
        return None
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 0).all():
        return None
    unit = affine[:3, :3] / lengths
    least = np.linalg.svd(unit, compute_uv=False)[-1]
    return unit if least >= _LEAST_INDEPENDENT else None


def nifti_affines(header: Any) -> tuple[np.ndarray, ...]:
    """The affines that a NIfTI-1 or NIfTI-2 header states, in mm, the preferred one first.

    The sform comes before the qform, as the standard recommends
    (https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields/nifti1fields_pages/qsform.html).
    A header without either has voxel sizes only. It gets nibabel's directions. The last affine has
    the directions of the qform and voxels of 1 mm. It is for a header whose sizes are wrong.
    """
    from nibabel.volumeutils import shape_zoom_affine  # training does not need nibabel

    unit = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    to_mm = np.diag([unit, unit, unit, 1.0])
    affines = []
    if header["sform_code"] != 0:
        affines.append(to_mm @ header.get_sform().astype(float))
    sizes = positive_sizes(header["pixdim"][1:4])
    shape = header.get_data_shape()[:3]
    sizes[len(shape) :] = 1 / unit  # a 2-D file states two sizes; its slice is 1 mm thick
    if header["qform_code"] != 0:
        qform = _qform(header)
        affines += [to_mm @ qform @ np.diag([*sizes, 1.0]), qform]
    elif not affines:
        shape = (*shape, 1, 1)[:3]
        with np.errstate(invalid="ignore"):  # a size that is no number is refused later
            affines.append(to_mm @ shape_zoom_affine(shape, sizes))
        affines.append(shape_zoom_affine(shape, np.ones(3)))
    return tuple(affines)


def positive_sizes(sizes: Sequence[float]) -> np.ndarray:
    """The voxel sizes as stated. A size that is 0 or negative becomes NaN."""
    stated = np.array(sizes, float)
    return np.where(stated > 0, stated, np.nan)


def _qform(header: Any) -> np.ndarray:
    """The qform's directions and origin for voxels of 1 mm, (4, 4); NaN if it has no rotation.

    A quaternion whose length is above 1 by rounding counts as a half turn, as in ITK and FSL.
    """
    from nibabel.affines import from_matvec
    from nibabel.quaternions import quat2mat

    b, c, d = (float(header[key]) for key in ("quatern_b", "quatern_c", "quatern_d"))
    square = b * b + c * c + d * d
    affine = np.full((4, 4), np.nan)
    if square <= 1 + _LEAST_UNIT:
        rest = 1 - square if 1 - square > _ROUNDING else 0.0
        rotation = quat2mat([np.sqrt(rest), b, c, d])
        handedness = -1.0 if header["pixdim"][0] < 0 else 1.0
        origin = [float(header[key]) for key in ("qoffset_x", "qoffset_y", "qoffset_z")]
        affine = from_matvec(rotation * [1.0, 1.0, handedness], origin)
    return affine


def apart_mm(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """The largest distance between two grids of one shape, in mm. It occurs at a corner.

    Args:
        shape: (X, Y, Z), shape of both grids.
        affine: (4, 4), voxel index to mm, of the one grid.
        other: (4, 4), voxel index to mm, of the other grid.
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def same_voxels(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other: np.ndarray
) -> bool:
    """Whether two grids have the same voxels, in whatever order of axes and in either direction.

    Args:
        shape: (X, Y, Z) of the one grid.
        affine: (4, 4), voxel index to mm, of the one grid.
        other_shape: (X, Y, Z) of the other grid.
        other: (4, 4), voxel index to mm, of the other grid.
    """
    from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(other), io_orientation(affine))
    turned_shape = tuple(int(other_shape[int(axis)]) for axis in np.argsort(turn[:, 0]))
    turned = other @ inv_ornt_aff(turn, tuple(other_shape[:3]))
    return turned_shape == tuple(shape[:3]) and same_place(shape, affine, turned)


def same_place(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> bool:
    """Whether two grids of one shape lie at the same place, see :data:`SAME_PLACE`."""
    smallest = min(*spacing_of(affine), *spacing_of(other))
    return apart_mm(shape, affine, other) <= SAME_PLACE * smallest
