"""The prepared data set on disk.

::

    STORE/
        manifest.json            everything but the pixels, see Manifest
        cases/<case id>/
            image.npy            (slices, rows, columns) float16, normalised
            label.npy            (slices, rows, columns) uint8 class indices; only if labelled
            case.json            this case's entry of the manifest

Why memory-mapped npy: docs/decisions/0001-store-format.md. This module needs NumPy only; training
reads through it and through nothing else.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from poscon.errors import PosconError
from poscon.files import write_text

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
OPEN_ARRAYS = 400


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassRecord(_Record):
    """A foreground class: name, and the voxel values that mean it in the source."""

    name: str
    values: tuple[int, ...]


class Preparation(_Record):
    """What was done to every volume; a scan to be predicted is treated the same way.

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


class IntensityRecord(_Record):
    """See :class:`poscon.store.intensity.Intensity`."""

    modality: str
    low: float | None
    high: float | None
    mean: float
    std: float


class GeometryRecord(_Record):
    """See :class:`poscon.volumes.geometry.SliceGeometry`."""

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    plane: str


class CaseRecord(_Record):
    """One prepared case.

    Attributes:
        id, subject, frame: see :class:`poscon.volumes.case.Case`.
        source: image file relative to the source folder.
        source_label: label file likewise, or None if the case is not labelled.
        frame_index: frame of a 4-D source, or None.
        geometry: from the file's array to the stack of slices.
        spacing_from: where the spacing comes from: ``"header"``, ``"layout"`` or ``"user"``.
        shape: (slices, rows, columns) as stored.
        spacing: mm along them.
        intensity: how the voxels were normalised.
        positions: one per slice, in (0, 1].
        class_voxels: voxels of each foreground class as stored; None if not labelled.
        pixels_sha256: of the source's voxels, in canonical orientation: the same scan under
            another name or in another axis order has the same hash.
        stored_sha256: of the stored image (and label) arrays.
    """

    id: str
    subject: str
    frame: str | None
    source: str
    source_label: str | None
    frame_index: int | None
    geometry: GeometryRecord
    spacing_from: Literal["header", "layout", "user"]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    intensity: IntensityRecord
    positions: tuple[float, ...]
    class_voxels: tuple[int, ...] | None
    pixels_sha256: str
    stored_sha256: str

    @model_validator(mode="after")
    def _one_position_a_slice(self) -> Self:
        if len(self.positions) != self.shape[0]:
            raise ValueError(f"{len(self.positions)} positions for {self.shape[0]} slices")
        return self

    @property
    def voxel_ml(self) -> float:
        """Volume of a stored voxel in ml."""
        slice_mm, row_mm, column_mm = self.spacing
        return slice_mm * row_mm * column_mm / 1000

    @property
    def labelled(self) -> bool:
        return self.source_label is not None


class Manifest(_Record):
    """Everything the store knows besides pixels."""

    schema_version: int
    poscon_version: str
    layout: str
    preparation: Preparation
    classes: tuple[ClassRecord, ...]
    notes: tuple[str, ...]
    cases: tuple[CaseRecord, ...] = Field(min_length=1)


class Store:
    """A prepared data set, opened for reading.

    Args:
        path: the folder that ``poscon prepare`` wrote.

    Raises:
        PosconError: no store there, unfinished, damaged, or of a newer poscon.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        # Bounded: every memory map holds a file open, and a process may open about a thousand.
        self._open = lru_cache(OPEN_ARRAYS)(self._map)

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        return self.manifest.cases

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes; class index i + 1 is the i-th."""
        return tuple(c.name for c in self.manifest.classes)

    def image(self, case: CaseRecord) -> np.ndarray:
        """(slices, rows, columns) float16, memory-mapped."""
        return self._array(case, "image", np.float16)

    def label(self, case: CaseRecord) -> np.ndarray:
        """(slices, rows, columns) uint8, memory-mapped."""
        return self._array(case, "label", np.uint8)

    def _array(self, case: CaseRecord, kind: str, dtype: type[np.generic]) -> np.ndarray:
        array = self._open(case.id, kind)
        if array.shape != case.shape or array.dtype != dtype:
            raise PosconError(
                f"{self.path}: case {case.id}: {kind} is {array.dtype} of shape {array.shape}, "
                f"should be {np.dtype(dtype)} of {case.shape}; the store is damaged, "
                "prepare it again"
            )
        return array

    def _map(self, case_id: str, kind: str) -> np.ndarray:
        path = self.path / "cases" / case_id / f"{kind}.npy"
        try:
            # a plain array over the map: slicing a numpy.memmap takes twice as long
            return np.asarray(np.load(path, mmap_mode="r"))
        except (EOFError, OSError, ValueError) as error:
            raise PosconError(
                f"{path}: cannot be read ({error}); the store is damaged, prepare it again"
            ) from error

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


def read_names(source: str | Path) -> list[str]:
    """Read names of cases or subjects from a file.

    Args:
        source: a text file with one name a line (``#`` starts a comment), a JSON file that holds
            a list, or ``FILE.json:KEY`` for the list under a key.
    """
    file, _, key = str(source).partition(".json:")
    path = Path(f"{file}.json" if key else str(source))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PosconError(f"{path}: cannot read the list of cases ({error})") from error
    if path.suffix != ".json":
        lines = (re.sub(r"#.*", "", line).strip() for line in text.splitlines())
        names = [line for line in lines if line]
    else:
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
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
    return names


def slices_sha256(image: np.ndarray, label: np.ndarray | None) -> str:
    """Hash of a case's stored arrays."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    if label is not None:
        digest.update(np.ascontiguousarray(label).data)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is complete or absent."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def _read_manifest(store: Path) -> Manifest:
    path = store / MANIFEST
    if not path.is_file():
        if (store / "cases").is_dir():
            raise PosconError(
                f"{store}: an unfinished store; run the same poscon prepare again to complete it"
            )
        raise PosconError(f"{store}: not a store (no {MANIFEST}); make one with poscon prepare")
    try:
        content = json.loads(path.read_text())
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PosconError(f"{path}: damaged ({error}); prepare the store again") from error
    if version != SCHEMA_VERSION:
        raise PosconError(
            f"{path}: schema version {version}, this poscon reads {SCHEMA_VERSION}; "
            "update poscon, or prepare the store again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PosconError(
            f"{path}: damaged ({where}: {first['msg']}); prepare the store again"
        ) from error
