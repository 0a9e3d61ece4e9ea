"""The prepared data set on disk.

::

    STORE/
        manifest.json            everything but the pixels, see Manifest
        cases/<case id>/
            image.npy            (slices, channels, rows, columns) float16, normalised
            label.npy            (slices, rows, columns) uint8 class indices, IGNORE where a voxel
                                 is not labelled; only if the case has a labelled voxel
            case.json            this case's entry of the manifest, without ranges

``poscon label`` puts another label map beside the first and then names it in the manifest. So a
reader sees either the one or the other.

Why memory-mapped npy: docs/decisions/0001-store-format.md. Training reads through this module and
through nothing else.
"""

import hashlib
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from poscon.errors import PosconError
from poscon.files import (
    FORMULA,
    UNSAFE,
    complete,
    parse_json,
    printable,
    safe_name,
    write_text,
)
from poscon.positions import relative_positions
from poscon.store.local import LocalFolder, fits_in_memory
from poscon.store.remote import RemoteFolder, is_url
from poscon.volumes.affine import Spacing
from poscon.volumes.case import MOST_CLASSES, NO_ID, check_name, label_scheme
from poscon.volumes.ranges import Range

SCHEMA_VERSION: Final = 7
_LABEL_FILE = re.compile(r"label(-[0-9a-f]+)?\.npy")
_READ_VERSIONS = (3, 4, 5, 6, SCHEMA_VERSION)
"""Of 3 every label map is whole. 3 and 4 have no ranges, and no affines of the scans."""
MANIFEST = "manifest.json"
OPEN_ARRAYS = 400
REQUESTS = 32  # to a URL at a time

LABEL_FILE = "label.npy"
"""The label map that ``poscon prepare`` writes."""

Names = Path | str | Collection[str]
"""Names of cases or subjects: a file that has them, see :func:`read_names`, or a list, a tuple or a
set of them. A single text is a file."""


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
            cases have.
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
    phase: float | None = None

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
        slice_mm, row_mm, column_mm = self.spacing
        return slice_mm * row_mm * column_mm / 1000

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


class Store:
    """A prepared data set, opened for reading.

    Args:
        path: the folder that ``poscon prepare`` wrote, or the URL of a copy of it that fsspec
            reads, such as ``s3://bucket/store`` (see :mod:`poscon.store.remote`).

    Raises:
        PosconError: no store there, unfinished, damaged, of another version, or out of reach.
    """

    def __init__(self, path: Path | str) -> None:
        self._folder = RemoteFolder(str(path)) if is_url(path) else LocalFolder(Path(path))
        content = self._folder.manifest(MANIFEST)
        self.manifest = _parse_manifest(content, f"{self.path}/{MANIFEST}")
        if isinstance(self._folder, LocalFolder):
            stored = sum(case.stored_bytes for case in self.cases)
            self._folder.in_memory = fits_in_memory(stored)
        # Bounded: every memory map holds a file open, and a process may open about a thousand.
        self._open = lru_cache(OPEN_ARRAYS)(self._folder.array)

    @property
    def path(self) -> Path | str:
        """The folder, or its URL."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self._folder.name

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        return self.manifest.cases

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.manifest.channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class index i + 1 is the i-th."""
        return tuple(c.name for c in self.manifest.classes)

    def __repr__(self) -> str:
        subjects = {case.subject for case in self.cases}
        labelled = {case.subject for case in self.cases if case.labelled}
        mm = self.manifest.preparation.spacing
        return (
            f"Store({str(self.path)!r}: {len(self.cases)} cases of {len(subjects)} subjects, "
            f"{len(labelled)} of them labelled; classes {', '.join(self.class_names) or 'none'}; "
            f"{'pixels as scanned' if mm is None else f'pixels of {mm:g} mm'})"
        )

    def image(self, case: CaseRecord) -> np.ndarray:
        """(slices, channels, rows, columns) float16, memory-mapped or fetched as it is read."""
        slices, *in_plane = case.shape
        return self._array(case, "image.npy", np.float16, (slices, self.channels, *in_plane))

    def images(self, wanted: Sequence[tuple[CaseRecord, int]]) -> list[np.ndarray]:
        """Slices of images, each (channels, rows, columns) float16.

        The slices of a store at a URL are fetched side by side.

        Args:
            wanted: case and number of each slice.
        """
        if isinstance(self._folder, LocalFolder):
            return [self.image(case)[number] for case, number in wanted]
        with ThreadPoolExecutor(REQUESTS) as pool:
            # each array is opened once, and then there for all
            list(pool.map(self.image, {case.id: case for case, _ in wanted}.values()))
            return list(pool.map(lambda one: self.image(one[0])[one[1]], wanted))

    def label(self, case: CaseRecord) -> np.ndarray:
        """(slices, rows, columns) uint8, memory-mapped or fetched as it is read.

        Where a voxel is not labelled, it has :data:`poscon.volumes.case.IGNORE`.
        """
        return self._array(case, case.label_file, np.uint8, case.shape)

    def _array(
        self, case: CaseRecord, file: str, dtype: type[np.generic], shape: tuple[int, ...]
    ) -> np.ndarray:
        array = self._open(f"cases/{case.id}/{file}", case.stored_sha256)
        if array.shape != shape or array.dtype != dtype:
            raise PosconError(
                f"{self.path}: case {case.id}: {file} is {array.dtype} of shape {array.shape}, "
                f"should be {np.dtype(dtype)} of {shape}; the store is damaged, prepare it again"
            )
        return array

    def select(self, names: Sequence[str], *, where: str) -> list[CaseRecord]:
        """Cases by subject or case id.

        Raises:
            PosconError: a name is neither.
        """
        wanted = set(names)
        found = [c for c in self.cases if c.id in wanted or c.subject in wanted]
        unknown = wanted - {c.id for c in found} - {c.subject for c in found}
        if unknown:
            raise PosconError(
                f"{where}: {len(unknown)} name(s) are neither a case nor a subject of "
                f"{self.path}: {', '.join(sorted(unknown)[:5])}; "
                f"poscon inspect {self.path} lists them"
            )
        return found


def labelled_voxels(cases: Sequence[CaseRecord]) -> list[tuple[CaseRecord, tuple[int, ...]]]:
    """The labelled cases, each with the voxels of its classes."""
    return [(case, case.class_voxels) for case in cases if case.class_voxels is not None]


def sparse_line(cases: Sequence[CaseRecord]) -> str | None:
    """How much is labelled, in one line; None if all slices of all labelled cases are."""
    labelled = [case for case in cases if case.labelled]
    if all(case.labelled_slices is None for case in labelled):
        return None
    n = sum(case.n_labelled_slices for case in labelled)
    return (
        f"{n} of {sum(case.shape[0] for case in labelled)} slices of "
        f"{len({case.subject for case in labelled})} subject(s) are labelled"
    )


def names_place(source: Names) -> str:
    """What messages call the place that names come from."""
    return str(source) if isinstance(source, str | Path) else "the list of names"


def read_names(source: Names) -> list[str]:
    """Names of cases or subjects, from a file or from a list.

    Args:
        source: a text file with one name per line (``#`` starts a comment), a JSON file that holds
            a list, or ``FILE.json:KEY`` for the list under a key; ``FILE.csv:SPLIT`` for the
            subjects of a split of a table of paths; or a list, a tuple or a set.

    Raises:
        PosconError: the file cannot be read, there is no name, or a name is no text.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, list | tuple | set | frozenset):
            raise PosconError(f"{source!r}: give a file of names, or a list of names")
        for name in source:
            if not isinstance(name, str):
                raise PosconError(f"{names_place(source)}: {name!r} is no text")
        if not source:
            raise PosconError(f"{names_place(source)}: names no case")
        return sorted(source) if isinstance(source, set | frozenset) else list(source)
    table, separator, split = str(source).partition(".csv:")
    if separator:
        from poscon.volumes.layouts.table import subjects_of  # it imports the scan libraries

        return subjects_of(Path(f"{table}.csv"), split)
    file, _, key = str(source).partition(".json:")
    path = Path(f"{file}.json" if key else str(source))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PosconError(f"{path}: cannot read the list of names ({error})") from error
    if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in raw:
        raise PosconError(f"{path}: cannot read the list of names; save it as plain text in UTF-8")
    # a file name may be no UTF-8, and then neither is a list that names it
    text = printable(raw.decode("utf-8", errors="surrogateescape"))
    if path.suffix != ".json":
        lines = (re.sub(r"#.*", "", line).strip() for line in text.splitlines())
        names = [line for line in lines if line]
    else:
        try:
            content = parse_json(text)
        except ValueError as error:
            raise PosconError(f"{path}: not valid JSON ({error})") from error
        if key:
            if not isinstance(content, dict) or key not in content:
                known = ", ".join(content) if isinstance(content, dict) else "none, it is a list"
                raise PosconError(f"{path}: has no key {key!r}; its keys: {known}")
            content = content[key]
        if not isinstance(content, list) or not all(isinstance(n, str) for n in content):
            raise PosconError(f"{path}: expected a list of names; choose one with {path}:KEY")
        names = content
    if not names:
        raise PosconError(f"{path}: names no case")
    return [safe_name(name) for name in names]


def slices_sha256(image: np.ndarray, label: np.ndarray | None) -> str:
    """Hash of a case's stored arrays."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    if label is not None:
        digest.update(np.ascontiguousarray(label).data)
    return digest.hexdigest()


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


def _parse_manifest(content: bytes, where: str) -> Manifest:
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
