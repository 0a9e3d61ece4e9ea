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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.store.local import LocalFolder, fits_in_memory
from poscon.store.manifest import MANIFEST, CaseRecord, parse_manifest
from poscon.store.remote import RemoteFolder, is_url

OPEN_ARRAYS = 400
REQUESTS = 32  # to a URL at a time


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
        self.manifest = parse_manifest(content, f"{self.path}/{MANIFEST}")
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


def slices_sha256(image: np.ndarray, label: np.ndarray | None) -> str:
    """Hash of a case's stored arrays."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    if label is not None:
        digest.update(np.ascontiguousarray(label).data)
    return digest.hexdigest()
