"""Label maps to be filled in: on the scan's own grid, with the chosen slices open."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch

from poscon.errors import PosconError
from poscon.models import Model
from poscon.store.store import CaseRecord, Store
from poscon.training.inference import largest_component, predicted_classes
from poscon.volumes.geometry import Plane, SliceGeometry, slice_geometry
from poscon.volumes.scan import NIFTI, Scan, first_volume, read_scan, scan_suffix, write_labels

IGNORE = 255
"""The value of a voxel that is not labelled, and that nobody is asked to label."""


def source_scan(store: Store, case: CaseRecord, source: Path) -> Scan:
    """The scan that a case was prepared from, as a 3-D volume.

    Args:
        store: that has the case.
        case: the case.
        source: the folder that the store was prepared from.

    Raises:
        PosconError: the scan is not there, cannot be read, or has another shape or orientation.
    """
    geometry = case.geometry
    path = source / case.source
    if not path.is_file():
        raise PosconError(
            f"{path}: no such file, but case {case.id} of {store.path} was prepared from it; give "
            "the folder that the store was prepared from"
        )
    spacing = None
    if case.spacing_from != "header":  # the store knows it along the axes of the stack
        mm = [geometry.spacing[geometry.permutation.index(axis)] for axis in range(3)]
        spacing = (mm[0], mm[1], mm[2])
    scan = read_scan(path, spacing=spacing)
    if scan.data.ndim == 4:
        scan = first_volume(scan)
    x, y, z = scan.data.shape
    found = slice_geometry((x, y, z), scan.affine, plane=cast("Plane", geometry.plane))
    # which way the slices run may have been turned by prepare --reverse
    if (found.shape, found.permutation, found.flips[1:]) != (
        geometry.shape,
        geometry.permutation,
        geometry.flips[1:],
    ):
        raise PosconError(
            f"{path}: is not the scan that case {case.id} of {store.path} was prepared from (its "
            "shape or its orientation differs); give the folder that the store was prepared from"
        )
    return scan


def open_slices(
    store: Store, case: CaseRecord, numbers: np.ndarray, model: Model | None
) -> np.ndarray:
    """A label map in which some slices are open and all others have the value :data:`IGNORE`.

    Args:
        store: that has the case.
        case: the case.
        numbers: numbers of the open slices, as in the store.
        model: predicts what the open slices show. None: they are 0.

    Returns:
        (X, Y, Z) on the grid of the file, in its own axis order.
    """
    geometry = SliceGeometry(**asdict(case.geometry))
    stack = np.full(geometry.stack_shape, IGNORE, np.uint8)
    stack[numbers] = 0
    if model is not None:
        values = predicted_values(store, case, model)
        stack = stack.astype(np.result_type(stack, values))
        stack[numbers] = values[numbers]
    return geometry.to_volume(stack)


def predicted_values(store: Store, case: CaseRecord, model: Model) -> np.ndarray:
    """(slices, rows, columns) label values that a model predicts, on the scan's grid in plane."""
    image = torch.from_numpy(store.image(case).astype(np.float32))
    _, rows, columns = SliceGeometry(**asdict(case.geometry)).stack_shape
    classes = predicted_classes(model.network, image, model.size, (rows, columns))
    if model.keep_largest_component:
        classes = largest_component(classes)
    return model.scheme.to_values(classes)


def write_open_label_map(folder: Path, case: CaseRecord, labels: np.ndarray, scan: Scan) -> Path:
    """Write a label map with the geometry of its scan; NIfTI is compressed.

    Returns:
        The file: the name of the case with the suffix of the scan's format.
    """
    suffix = scan_suffix(scan.path)
    path = folder / f"{case.id}{NIFTI[-1] if suffix in NIFTI else suffix}"
    write_labels(path, labels, scan)
    return path
