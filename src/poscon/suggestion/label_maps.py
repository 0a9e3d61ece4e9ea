"""Label maps to be filled in: on the scan's own grid, with the chosen slices open."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import asdict

from poscon.errors import PosconError
from poscon.models import Model
from poscon.store.manifest import CaseRecord
from poscon.store.resample import resample_classes
from poscon.store.store import Store
from poscon.suggestion.scans import Scans
from poscon.training.inference import largest_component, predicted_classes
from poscon.volumes.case import IGNORE, LabelScheme, label_scheme
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.label_maps import read_labels
from poscon.volumes.layouts import dicom, read_dataset
from poscon.volumes.scan import NIFTI, label_suffix, write_labels


def open_scheme(
    store: Store, source: Path, model: Model | None, ignore_label: int | None
) -> LabelScheme:
    """What the values of the label maps mean, with the value for "not labelled".

    Args:
        store: whose classes they have; those of the model if it has none.
        source: the folder that it was prepared from.
        model: predicts the open slices, or None.
        ignore_label: the value for "not labelled"; None: that which the data set states, else 255.

    Raises:
        PosconError: the model has other classes than the store, or the value means a class.
    """
    classes = store.manifest.classes
    if model is not None:
        if classes and tuple(model.classes) != classes:
            raise PosconError(
                f"{store.path}: its classes are {', '.join(store.class_names)}, those of the model "
                f"of {model.run} differ in name or value; leave --source or --model out"
            )
        classes = tuple(model.classes)
    if ignore_label is None and store.manifest.layout == dicom.NAME:
        ignore_label = IGNORE  # structures have names and no values
    if ignore_label is None:
        stated = read_dataset(source, store.manifest.layout).labels
        ignore_label = IGNORE if stated is None or stated.ignore is None else stated.ignore
    scheme = label_scheme(((c.name, c.values) for c in classes), where=str(store.path))
    return scheme.with_ignore(ignore_label, where=f"--ignore-label {ignore_label}")


@dataclass(frozen=True)
class OpenLabelMaps:
    """Writes the label maps of the cases of a store.

    Attributes:
        store: the store.
        scans: finds the scans that it was prepared from.
        scheme: what the values of the label maps mean, see :func:`open_scheme`.
        model: predicts what the open slices show. None: they are 0.
    """

    store: Store
    scans: Scans
    scheme: LabelScheme
    model: Model | None

    def write(self, folder: Path, case: CaseRecord, numbers: np.ndarray) -> Path:
        """Write the label map of a case with the geometry of its scan; NIfTI is compressed.

        Args:
            folder: where it goes.
            case: the case.
            numbers: numbers of its open slices, as in the store.

        Returns:
            The file. It has the name of the case and the suffix of the scan's format.

        Raises:
            PosconError: the scan or its label map is not there, cannot be read, or has changed.
        """
        scan = self.scans.scan(case)
        suffix = label_suffix(scan.path)
        path = folder / f"{case.id}{NIFTI[-1] if suffix in NIFTI else suffix}"
        write_labels(path, self.values(case, numbers), scan)
        return path

    def values(self, case: CaseRecord, numbers: np.ndarray) -> np.ndarray:
        """The label values of a case: of what is labelled already, of the open slices, and ignored.

        A labelled slice is ignored too if the last label map of the case does not have it.

        Args:
            case: the case.
            numbers: numbers of its open slices, as in the store.

        Returns:
            (X, Y, Z) on the grid of the file, in its own axis order.
        """
        stack = self._known(case)
        stack[numbers] = 0
        if self.model is not None:
            stack[numbers] = self._predicted(case, self.model)[numbers]
        volume = SliceGeometry(**asdict(case.geometry)).to_volume(stack)
        return volume.astype(np.min_scalar_type(int(stack.max())))

    def _known(self, case: CaseRecord) -> np.ndarray:
        """What the last label map of a case says of the slices that are labelled.

        The store may have labels of several files. A slice that the last of them does not have as
        the store has it is ignored here, so that the store keeps it when the map is given back.

        Returns:
            (slices, rows, columns) int32 label values on the scan's own grid.
        """
        geometry = SliceGeometry(**asdict(case.geometry))
        stack = np.full(geometry.stack_shape, self.scheme.ignore, np.int32)
        labelled = case.labelled_slice_numbers
        drawn = self.scans.label(case) if len(labelled) else None
        if drawn is None:
            return stack
        read = read_labels(drawn, self.scheme, spacing=case.stated_spacing)
        values = geometry.to_stack(read.data)[labelled]
        meant = [0, *(value for one in self.scheme.classes for value in one.values)]
        values[~np.isin(values, meant)] = self.scheme.ignore
        classes = self.scheme.to_classes(values, where=str(drawn))
        _, rows, columns = case.shape
        prepared = resample_classes(classes, (rows, columns), len(self.scheme.classes) + 1)
        same = (prepared == self.store.label(case)[labelled]).all(axis=(1, 2))
        stack[labelled[same]] = values[same]
        return stack

    def _predicted(self, case: CaseRecord, model: Model) -> np.ndarray:
        """(slices, rows, columns) label values that the model predicts, on the scan's own grid."""
        image = torch.from_numpy(self.store.image(case).astype(np.float32))
        _, rows, columns = SliceGeometry(**asdict(case.geometry)).stack_shape
        classes = predicted_classes(model.network, image, model.size, (rows, columns))
        if model.keep_largest_component:
            classes = largest_component(classes)
        return self.scheme.to_values(classes)
