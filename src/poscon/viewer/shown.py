"""A case that the page shows: a scan in a file, or a case of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec.structs import asdict

from poscon.errors import PosconError
from poscon.evaluation.pairs import Reference
from poscon.pictures.predictions import read_prediction
from poscon.positions import learned_positions, relative_positions
from poscon.store.manifest import CaseRecord
from poscon.store.preparation import one_volume, refuse_other_grid
from poscon.store.resample import resample_classes
from poscon.store.store import Store
from poscon.viewer.volume import Volume, canonical
from poscon.volumes.affine import Spacing
from poscon.volumes.case import IGNORE, MOST_CLASSES, Case, LabelScheme, whole_values
from poscon.volumes.drawing import LabelSource
from poscon.volumes.geometry import Plane, SliceGeometry, slice_geometry
from poscon.volumes.label_maps import on_grid, read_labels
from poscon.volumes.scan import ScanHeader, read_header, read_scan


@dataclass(frozen=True)
class Place:
    """Where the slices of a case lie.

    Attributes:
        plane: plane of the slices.
        axis: the axis across them: 0 right, 1 anterior, 2 superior.
        relative: relative position of each slice along this axis.
        learned: position of each slice in mm on the axis of all cases of a store, or None.
    """

    plane: str
    axis: int
    relative: list[float]
    learned: list[float] | None = None


class Shown(Protocol):
    """A case that can be shown."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str:
        """Heading of the list under which it stands, or an empty text."""

    @property
    def channels(self) -> Sequence[str]:
        """The names of its image channels."""

    @property
    def has_reference(self) -> bool: ...
    @property
    def has_prediction(self) -> bool: ...

    def place(self) -> Place:
        """Where its slices lie."""

    def image(self, channel: int) -> Volume:
        """An image channel, by its number from 0."""

    def reference(self) -> Volume:
        """The reference as class indices; ``IGNORE`` is not labelled."""

    def prediction(self) -> Volume:
        """The prediction as class indices."""


@dataclass(frozen=True)
class ShownScan:
    """A scan in files.

    Attributes:
        case: the scan.
        label: its reference, or None.
        predicted: its predicted label map, or None.
        meanings: what the values of reference and prediction mean; None: that is not stated.
        classes: the classes of the page. Their indices are 1, 2, 3 and so on.
        plane: plane of the slices.
        spacing: voxel size in mm that the user states, or None.
        channels: names of the image channels.
        group: heading in the list.
    """

    case: Case
    label: Reference | None
    predicted: Path | None
    meanings: tuple[LabelScheme | None, LabelScheme | None]
    classes: tuple[str, ...]
    plane: Plane = "auto"
    spacing: Spacing | None = None
    channels: tuple[str, ...] = ("image",)
    group: str = ""

    @property
    def id(self) -> str:
        return self.case.id

    @property
    def has_reference(self) -> bool:
        return self.label is not None

    @property
    def has_prediction(self) -> bool:
        return self.predicted is not None

    def place(self) -> Place:
        header = self._header()
        x, y, z = header.shape[:3]
        geometry = slice_geometry((x, y, z), header.affine, plane=self.plane)
        positions = relative_positions(geometry.stack_shape[0])
        return Place(geometry.plane, geometry.canonical_axes[0], positions.tolist())

    def image(self, channel: int) -> Volume:
        one = self.case.all_channels[channel]
        scan = read_scan(one.file, spacing=self._spacing)
        return canonical(one_volume(scan.data, self.case, one), scan.affine)

    def reference(self) -> Volume:
        assert self.label is not None
        frame = self.label.frame_index
        frame = self.case.frame_index if frame is None else frame
        return self._classes(self.label.path, frame, self.meanings[0])

    def prediction(self) -> Volume:
        assert self.predicted is not None
        return self._classes(self.predicted, self.case.frame_index, self.meanings[1])

    @property
    def _spacing(self) -> Spacing | None:
        return self.spacing or self.case.spacing

    def _header(self) -> ScanHeader:
        return read_header(self.case.image, spacing=self._spacing)

    def _classes(self, path: LabelSource, frame: int | None, scheme: LabelScheme | None) -> Volume:
        """A label map as class indices, checked to lie on the scan."""
        header = self._header()
        scan = read_labels(
            on_grid(path, header.shape, header.affine), scheme, spacing=self._spacing
        )
        data = scan.data
        if data.ndim == 4 and frame is not None:
            data = data[..., frame]
        own = ScanHeader(data.shape, scan.spacing, scan.affine)
        refuse_other_grid(path, own, str(self.case.image), header.shape, header.affine)
        return canonical(class_indices(data, scheme, self.classes, where=str(path)), scan.affine)


@dataclass(frozen=True)
class ShownRecord:
    """A case of a store, as it is stored.

    Attributes:
        store: the store.
        record: the case.
        predictions: folder of predictions that has one of this case, or None.
        group: heading in the list.
    """

    store: Store
    record: CaseRecord
    predictions: Path | None = None
    group: str = ""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def channels(self) -> tuple[str, ...]:
        return self.store.manifest.channels

    @property
    def has_reference(self) -> bool:
        return self.record.labelled

    @property
    def has_prediction(self) -> bool:
        return self.predictions is not None

    def place(self) -> Place:
        learned = None
        if self.record.axis is not None:
            learned = learned_positions(self.record.shape[0], self.record.axis).tolist()
        geometry = self._geometry
        relative = self.record.positions.tolist()
        return Place(geometry.plane, geometry.canonical_axes[0], relative, learned)

    def image(self, channel: int) -> Volume:
        return self._volume(self.store.image(self.record)[:, channel])

    def reference(self) -> Volume:
        return self._volume(self.store.label(self.record))

    def prediction(self) -> Volume:
        assert self.predictions is not None
        classes = read_prediction(self.store, self.record, self.predictions)
        _, rows, columns = self.record.shape
        if classes.shape != self._geometry.stack_shape:
            raise PosconError(
                f"{self.predictions}: the label map of case {self.id} has not the shape of its "
                f"scan, {self._geometry.shape}; is it of another scan?"
            )
        number = len(self.store.class_names) + 1
        return self._volume(resample_classes(classes, (rows, columns), number))

    @property
    def _geometry(self) -> SliceGeometry:
        return SliceGeometry(**asdict(self.record.geometry))

    def _volume(self, stack: np.ndarray) -> Volume:
        """A stored stack with its axes in canonical order. Its middle is at 0 mm."""
        order = np.argsort(self._geometry.canonical_axes)
        spacing = np.array(self.record.spacing)[order]
        data = stack.transpose(order)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -spacing * (np.array(data.shape) - 1) / 2
        return Volume(data, affine)


@dataclass(frozen=True)
class Collection:
    """What a page shows.

    Attributes:
        title: what it is called.
        cases: the cases in the order of the list, at least one.
        classes: the foreground classes by index from 1; None: a value is its own index.
        dice: Dice of the classes of a case, by its id and the name of the class.
    """

    title: str
    cases: Sequence[Shown]
    classes: tuple[str, ...] | None
    dice: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def class_indices(
    values: np.ndarray, scheme: LabelScheme | None, classes: Sequence[str], *, where: str
) -> np.ndarray:
    """Class indices of the page, uint8, from the values of a label map.

    Args:
        values: label map of any shape.
        scheme: what its values mean. Without classes, or None: each value is its own index.
        classes: the classes of the page in the order of their indices.
        where: the file, for a message.

    Raises:
        PosconError: a value is not declared, is not whole, or is no index.
    """
    if scheme is not None and scheme.classes:
        table = np.zeros(IGNORE + 1, np.uint8)
        table[IGNORE] = IGNORE
        table[1 : len(scheme.names) + 1] = [classes.index(name) + 1 for name in scheme.names]
        indices: np.ndarray = table[scheme.to_classes(values, where=where)]
        return indices
    whole = whole_values(values, where=where)
    unlabelled = np.zeros(whole.shape, bool) if scheme is None else whole == scheme.ignore
    whole[unlabelled] = 0
    if whole.min() < 0 or whole.max() > MOST_CLASSES:
        raise PosconError(
            f"{where}: has values from {whole.min()} to {whole.max()}, and nothing says what they "
            f"mean; then only 0 to {MOST_CLASSES} can be shown, so put a labels.json beside it"
        )
    return np.where(unlabelled, IGNORE, whole).astype(np.uint8)
