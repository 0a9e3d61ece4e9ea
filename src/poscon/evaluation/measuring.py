"""Measure a prediction against its reference: class maps in, rows of results out."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from poscon.evaluation.pairs import Pair, frame_names
from poscon.evaluation.results import Coverage, Row
from poscon.metrics import segmentation_metrics
from poscon.volumes.affine import Spacing, voxel_mm3
from poscon.volumes.case import IGNORE, LabelScheme
from poscon.volumes.geometry import SliceGeometry, slice_geometry
from poscon.volumes.range_differences import range_differences


@dataclass(frozen=True)
class ClassMaps:
    """The class indices of a case, in prediction and reference.

    Attributes:
        case: the case id; that of a frame if the files are 4-D.
        prediction: (X, Y, Z) uint8.
        reference: (X, Y, Z) uint8; ``IGNORE`` where a voxel is not labelled.
        spacing: voxel size in mm along X, Y, Z.
        voxel_mm3: volume of a voxel.
        geometry: how the slices lie in the files.
        empty_is_unlabelled: whether a reference without any foreground has no labels, as most
            frames of a 4-D file.
    """

    case: str
    prediction: np.ndarray
    reference: np.ndarray
    spacing: Spacing
    voxel_mm3: float
    geometry: SliceGeometry
    empty_is_unlabelled: bool

    @property
    def annotated(self) -> bool:
        """Whether the reference labels anything."""
        counted = self.reference != IGNORE
        if self.empty_is_unlabelled:
            counted &= self.reference != 0
        return bool(counted.any())

    @property
    def coverage(self) -> Coverage:
        """How much of the case the reference labels."""
        counted = self.geometry.to_stack(self.reference) != IGNORE
        labelled = int(counted.any(axis=(1, 2)).sum())
        return Coverage(len(counted), labelled, int((~counted).sum()))


def class_maps(
    pair: Pair, of_predictions: LabelScheme, of_references: LabelScheme, spacing: Spacing | None
) -> list[ClassMaps]:
    """Read a pair of label maps: one pair of class maps, or as many as there are frames.

    Args:
        pair: the files.
        of_predictions: meaning of the prediction's values.
        of_references: meaning of the reference's values; the order of the classes is its own.
        spacing: voxel size in mm along the files' axes, if the user states it.

    Raises:
        PosconError: a file cannot be used, the two do not fit, or a value is not declared.
    """
    scan, reference_scan = pair.read(of_references, spacing, of_predictions)
    names = of_references.names
    order = np.array([0, *(names.index(name) + 1 for name in of_predictions.names)], np.uint8)
    prediction = order[of_predictions.to_classes(scan.data, where=str(pair.path))]
    reference = of_references.to_classes(
        reference_scan.data, where=str(pair.reference.path), ignorable=True
    )
    x, y, z = reference.shape[:3]
    size = spacing or pair.reference.spacing or scan.spacing
    volume = voxel_mm3(reference_scan.affine, size)
    geometry = slice_geometry((x, y, z), reference_scan.affine)
    if reference.ndim == 3:
        return [ClassMaps(pair.id, prediction, reference, size, volume, geometry, False)]
    return [
        ClassMaps(name, prediction[..., i], reference[..., i], size, volume, geometry, True)
        for i, name in enumerate(frame_names(pair.id, reference.shape[3]))
    ]


def measure(
    maps: ClassMaps,
    names: Sequence[str],
    subject: str,
    seen: tuple[str, ...],
    nsd_tolerance_mm: float,
) -> Iterator[Row]:
    """The row of each class of a case.

    Args:
        maps: prediction and reference.
        names: the foreground classes.
        subject: the person scanned.
        seen: roles that the scan had in the training of the model.
        nsd_tolerance_mm: distance in mm up to which surfaces agree.
    """
    axis = maps.geometry.permutation[0]
    counted = maps.reference != IGNORE
    ranges = range_differences(
        maps.prediction, maps.reference, len(names), axis, maps.spacing[axis]
    )
    measured = segmentation_metrics(
        maps.prediction,
        maps.reference,
        maps.spacing,
        names,
        counted,
        nsd_tolerance_mm,
        maps.voxel_mm3,
    )
    for of_class, difference in zip(measured, ranges, strict=True):
        measures = {k: v for k, v in asdict(of_class).items() if k != "name"}
        yield Row(
            maps.case,
            subject,
            of_class.name,
            spacing=maps.spacing,
            nsd_tolerance_mm=nsd_tolerance_mm,
            range=difference,
            seen=seen,
            **measures,
        )
