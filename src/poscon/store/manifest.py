"""What a store knows besides pixels: its cases, and how they were prepared.

The file is ``manifest.json``, see :class:`Manifest`. ``cases/<case id>/case.json`` has the entry of
one case, without ranges.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from poscon.errors import PosconError
from poscon.files import FORMULA, UNSAFE, complete, write_text
from poscon.positions import relative_positions
from poscon.volumes.affine import Spacing, voxel_mm3
from poscon.volumes.case import MOST_CLASSES, NO_ID, check_name, label_scheme
from poscon.volumes.ranges import Range

SCHEMA_VERSION: Final = 7
_LABEL_FILE = re.compile(r"label(-[0-9a-f]+)?\.npy")
_READ_VERSIONS = (3, 4, 5, 6, SCHEMA_VERSION)
"""Of 3 every label map is whole. 3 and 4 have no ranges, and no affines of the scans."""
MANIFEST = "manifest.json"

LABEL_FILE = "label.npy"
"""The label map that ``poscon prepare`` writes."""

Phase = Annotated[float, msgspec.Meta(ge=0, lt=1)]
"""A share of a cycle."""


class _Entry(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A part of a case. Structs, and no models, as a store has many: see decision 0042."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassRecord(_Record):
    """A foreground class: name, and the voxel values that mean it in the source."""

    name: str
    values: tuple[int, ...]


class Preparation(_Record):
    """What was done to every volume.

    A scan to be predicted is treated the same way, in the plane of the training cases. The voxel
    size that was stated for the training cases is not applied to it.

    Attributes:
        plane: see :func:`poscon.volumes.geometry.slice_geometry`.
        spacing: mm per pixel in plane, or None: as scanned.
        source_spacing: mm along the file's axes that replaces the headers', or None.
        modality: ``"CT"`` or ``"MR"`` for all, or None: by the layout, else guessed.
    """

    plane: Literal["auto", "axial", "coronal", "sagittal"]
    spacing: float | None
    source_spacing: tuple[float, float, float] | None
    modality: Literal["CT", "MR"] | None


class IntensityRecord(_Entry, frozen=True):
    """See :class:`poscon.store.intensity.Intensity`; and what tells whether a scan is like others.

    Attributes:
        looks_like: ``"CT"`` or ``"MR"``, by the values alone.
        percentiles: the 1st and the 99th of the normalised values,
            of the voxels that the mean is of.
    """

    modality: str
    low: float | None
    high: float | None
    mean: float
    std: float
    padding: float
    percentiles: tuple[float, float]
    looks_like: str


class ChannelRecord(_Entry, frozen=True):
    """One image channel of a case.

    Attributes:
        source: its file, relative to the source folder; the name of the case for a DICOM series.
        index: which volume of a 4-D file it is, or None.
        intensity: how its voxels were normalised.
    """

    source: str
    index: int | None
    intensity: IntensityRecord


class GeometryRecord(_Entry, frozen=True):
    """See :class:`poscon.volumes.geometry.SliceGeometry`."""

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    plane: str


class AxisRecord(_Entry, frozen=True):
    """Where a case lies on the axis that ``poscon align`` found for all cases of the store.

    Attributes:
        first, last: coordinates in mm of the first and the last slice. The others lie between
            them at equal steps.
        against: whether the slices run against those of most cases. Then ``last`` is the lower one.
        clearness: how clear the direction is, from 0 to 1.
        determined: whether the images say where the case lies. If not, it has the ends that most
            cases have. If no case is determined, all lie by their positions in the scan.
    """

    first: float
    last: float
    against: bool
    clearness: float
    determined: bool


class CaseRecord(_Entry, frozen=True):
    """One prepared case.

    Attributes:
        id, subject, frame: see :class:`poscon.volumes.case.Case`.
        channels: the image channels, as many as the manifest names.
        source_label: label file relative to the source folder, or None if no voxel of the case is
            labelled. Of ``poscon label`` it is the whole path.
        frame_index: frame of a 4-D time series, or None.
        geometry: from the file's array to the stack of slices.
        spacing_from: where the spacing comes from: ``"header"``, ``"layout"`` or ``"user"``.
        shape: (slices, rows, columns) as stored, of every channel.
        spacing: mm along them.
        class_voxels: labelled voxels of each foreground class as stored; None if not labelled.
        pixels_sha256: of the source's voxels, all channels, in canonical orientation: the same
            scan under another name or in another axis order has the same hash.
        stored_sha256: of the stored image (and label) arrays.
        labelled_slices: rising numbers of the slices that have a labelled voxel, of a labelled
            case; None: all of them.
        ranges: first and last slice of structures by class, as far as they are stated; None: the
            scan does not have the structure.
        label_file: name of the stored label map, if the case is labelled.
        affine: (4, 4), the scan's voxel index to mm, RAS+. Where a voxel size was stated it has
            that one. None: the store was written by an earlier version.
        axis: where the case lies on the axis of all cases; None: they were not aligned.
        phase: see :class:`poscon.volumes.case.Case`; None also in a store of an earlier version.
    """

    id: str
    subject: str
    frame: str | None
    channels: tuple[ChannelRecord, ...]
    source_label: str | None
    frame_index: int | None
    geometry: GeometryRecord
    spacing_from: Literal["header", "layout", "user"]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    class_voxels: tuple[int, ...] | None
    pixels_sha256: str
    stored_sha256: str
    labelled_slices: tuple[int, ...] | None = None
    ranges: Mapping[str, Range] = msgspec.field(default_factory=dict)
    label_file: str = LABEL_FILE
    affine: tuple[tuple[float, ...], ...] | None = None
    axis: AxisRecord | None = None
    phase: Phase | None = None

    @property
    def source(self) -> str:
        """The image file relative to the source folder; of several files the first."""
        return self.channels[0].source

    @property
    def modalities(self) -> tuple[str, ...]:
        """``"CT"`` or ``"MR"`` of each channel."""
        return tuple(channel.intensity.modality for channel in self.channels)

    @property
    def modality(self) -> str:
        """The modality in words: ``MR``, or ``CT+MR`` where the channels differ."""
        return "+".join(sorted(set(self.modalities)))

    @property
    def stated_spacing(self) -> Spacing | None:
        """Mm along the axes of the file, where they were stated because its header is wrong."""
        if self.spacing_from == "header":
            return None
        mm = [self.geometry.spacing[self.geometry.permutation.index(axis)] for axis in range(3)]
        return mm[0], mm[1], mm[2]

    def file_slice(self, number: int) -> int:
        """The number of a stored slice along its axis in the file of the scan, from 0."""
        return self.shape[0] - 1 - number if self.geometry.flips[0] else number

    @property
    def positions(self) -> np.ndarray:
        """One per slice, in (0, 1]: see :func:`poscon.positions.relative_positions`."""
        return relative_positions(self.shape[0])

    @property
    def voxel_ml(self) -> float:
        """Volume of a stored voxel in ml."""
        if self.affine is None:  # a store of schema 4 or before
            return math.prod(self.spacing) / 1000
        return voxel_mm3(np.array(self.affine), self.spacing) / 1000

    @property
    def labelled(self) -> bool:
        return self.source_label is not None

    @property
    def labelled_slice_numbers(self) -> np.ndarray:
        """(n,) int64, rising: all slices of a fully labelled case, none of an unlabelled one."""
        if not self.labelled:
            return np.zeros(0, np.int64)
        if self.labelled_slices is None:
            return np.arange(self.shape[0])
        return np.array(self.labelled_slices, np.int64)

    @property
    def n_labelled_slices(self) -> int:
        """How many slices have a labelled voxel."""
        if not self.labelled:
            return 0
        return self.shape[0] if self.labelled_slices is None else len(self.labelled_slices)

    @property
    def partly_labelled(self) -> bool:
        """Whether some slices are labelled and some are not."""
        return 0 < self.n_labelled_slices < self.shape[0]

    @property
    def stored_bytes(self) -> int:
        """Size of the stored arrays."""
        slices, rows, columns = self.shape
        return slices * rows * columns * (2 * len(self.channels) + self.labelled)


def read_case(path: Path) -> CaseRecord:
    """What a ``case.json`` says.

    Raises:
        PosconError: it is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=CaseRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PosconError(f"{path}: damaged ({error}); remove {path.parent}") from error


def write_case(path: Path, case: CaseRecord) -> None:
    """Write a ``case.json``."""
    write_json(path, msgspec.to_builtins(case))


def refuse_inside_store(folder: Path) -> None:
    """Refuse a folder that lies in a store, where it would be among the store's own files.

    Raises:
        PosconError: it does.
    """
    for above in folder.resolve().parents:
        if (above / MANIFEST).is_file() and (above / "cases").is_dir():
            raise PosconError(f"{folder}: lies in the store {above}; choose a place outside it")


class Manifest(_Record):
    """Everything the store knows besides pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    schema_version: Literal[3, 4, 5, 6, 7]
    poscon_version: str
    layout: str
    preparation: Preparation
    channels: tuple[str, ...] = Field(min_length=1)
    classes: tuple[ClassRecord, ...]
    notes: tuple[str, ...]
    cases: tuple[CaseRecord, ...] = Field(min_length=1)

    @field_serializer("cases")
    def _plain(self, cases: tuple[CaseRecord, ...]) -> Any:
        return msgspec.to_builtins(cases)


class _ManifestFile(Struct, forbid_unknown_fields=True):
    """The file of a manifest, of which the cases are checked as they are read."""

    schema_version: Literal[3, 4, 5, 6, 7]
    poscon_version: str
    layout: str
    preparation: dict[str, Any]
    channels: tuple[str, ...]
    classes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    cases: tuple[CaseRecord, ...]


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is complete or absent."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a store's manifest, complete or absent; case by case, as there may be very many.

    Args:
        folder: of the store.
        manifest: what to write.
    """
    about = {**manifest.model_dump(mode="json", exclude={"cases"}), "cases": [0]}
    before, _, after = json.dumps(about, indent=1).rpartition("0")
    with complete(folder / MANIFEST) as part, part.open("w", encoding="utf-8") as file:
        file.write(before)
        for number, case in enumerate(manifest.cases):
            text = json.dumps(msgspec.to_builtins(case), indent=1).replace("\n", "\n  ")
            file.write(f",\n  {text}" if number else text)
        file.write(after + "\n")


class _Version(Struct):
    """The one field of a manifest of any version."""

    schema_version: Any


def _check_names(manifest: Manifest, where: str) -> None:
    """Refuse names by which a store would reach files outside it, or that no table can have.

    A store of 100,000 cases is looked at in one go.

    Raises:
        PosconError: there is such a name, or two cases have one.
    """
    label_scheme(((c.name, c.values) for c in manifest.classes), where=where)
    for channel in manifest.channels:
        check_name(channel, f"{where}: a channel")
    ids = {case.id for case in manifest.cases}
    told = {name for case in manifest.cases for name in (case.subject, case.frame or "")}
    good = (
        len(ids) == len(manifest.cases)
        and not NO_ID.search("".join(ids))
        and not {name[:1] for name in ids} & {"", "."}
        and not UNSAFE.search("".join(told))
        and not {name[:1] for name in told} & set(FORMULA)
        and all(
            _LABEL_FILE.fullmatch(file) for file in {case.label_file for case in manifest.cases}
        )
    )
    if not good:
        raise PosconError(
            f"{where}: damaged (a case, a subject or a label map has a name that poscon does not "
            "write, or two cases have one); prepare the store again"
        )


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest of a store.

    Args:
        content: of the file.
        where: what messages call the file.

    Raises:
        PosconError: it is damaged, or of a version that is not read.
    """
    try:
        file = msgspec.json.decode(content, type=_ManifestFile)
        manifest = Manifest(**{name: getattr(file, name) for name in Manifest.model_fields})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse_version(content, where)
        raise PosconError(f"{where}: damaged ({error}); prepare the store again") from error
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise PosconError(f"{where}: damaged ({what}); prepare the store again") from error
    _check_names(manifest, where)
    if len(manifest.classes) > MOST_CLASSES:  # as a store of schema 3 could have
        raise PosconError(
            f"{where}: has {len(manifest.classes)} classes, a store holds {MOST_CLASSES}; prepare "
            "the store again with fewer"
        )
    names = {c.name for c in manifest.classes}
    for case in manifest.cases:
        if len(case.channels) != len(manifest.channels):
            raise PosconError(
                f"{where}: damaged (case {case.id} has {len(case.channels)} channel(s) and not "
                f"{len(manifest.channels)}); prepare the store again"
            )
        if case.affine is not None and [len(row) for row in case.affine] != [4] * 4:
            raise PosconError(
                f"{where}: damaged (the affine of case {case.id} is not 4 x 4); prepare the store "
                "again"
            )
        if unknown := case.ranges.keys() - names:
            raise PosconError(
                f"{where}: damaged (case {case.id} has a range of {min(unknown)}, which is no "
                "class); prepare the store again"
            )
    return manifest


def _refuse_version(content: bytes, where: str) -> None:
    """Refuse a manifest of a version that is not read, by that.

    Raises:
        PosconError: it has such a version.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version not in _READ_VERSIONS:
        raise PosconError(
            f"{where}: schema version {version}, this poscon reads "
            f"{', '.join(map(str, _READ_VERSIONS[:-1]))} and {_READ_VERSIONS[-1]}; "
            "prepare the store again"
        )
