"""The scans that a store was prepared from, found again, with the label maps that they came with.

A store names the files of its scans. Of a DICOM series it has the name of the case only, because a
path may say who was scanned. So a series is found by its place and its voxels, whatever its number
is now.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast, get_args

import numpy as np

from poscon.errors import PosconError
from poscon.store.manifest import CaseRecord
from poscon.store.preparation import one_volume, pixels_sha256
from poscon.store.store import Store
from poscon.volumes.affine import same_place
from poscon.volumes.case import Case
from poscon.volumes.drawing import LabelSource
from poscon.volumes.geometry import Plane, slice_geometry
from poscon.volumes.label_maps import on_grid
from poscon.volumes.layouts import dicom, folder_of_paths, read_dataset
from poscon.volumes.scan import Scan, first_volume, read_header, read_scan
from poscon.volumes.series import OnGap


class Scans(Protocol):
    """Finds the scans of a store."""

    def scan(self, case: CaseRecord) -> Scan:
        """The scan that a case was prepared from, as a 3-D volume.

        Raises:
            PosconError: it is not there, cannot be read, or has another shape or orientation.
        """

    def label(self, case: CaseRecord) -> LabelSource | None:
        """The last label map that a case got, on the grid of its scan; None: it is not there.

        Raises:
            PosconError: it should be there.
        """


def scans_of(store: Store, source: Path, series: str | None = None) -> Scans:
    """What finds the scans of a store.

    Args:
        store: the store.
        source: the folder, or the table of paths, that it was prepared from.
        series: which DICOM series of the folder are read; None: all.

    Raises:
        PosconError: ``series`` is given, but the store was not prepared from DICOM series.
    """
    if store.manifest.layout == dicom.NAME:
        return DicomSeries(store, source, series)
    if series is not None:
        raise PosconError(
            f"--series: no effect, {store.path} was not prepared from DICOM series; leave it out"
        )
    return ScanFiles(store, source)


@dataclass(frozen=True)
class ScanFiles:
    """Scans whose files the store names."""

    store: Store
    source: Path

    def scan(self, case: CaseRecord) -> Scan:
        path = folder_of_paths(self.source) / case.source
        if not path.is_file():
            raise PosconError(
                f"{path}: no such file, but case {case.id} of {self.store.path} was prepared from "
                "it; give the folder that the store was prepared from"
            )
        scan = read_scan(path, spacing=case.stated_spacing)
        if scan.data.ndim == 4:
            scan = first_volume(scan)
        _check_geometry(self.store, case, scan)
        return scan

    def label(self, case: CaseRecord) -> LabelSource | None:
        if case.source_label is None:
            return None
        return _given(self.store, case, folder_of_paths(self.source) / case.source_label)


@dataclass(frozen=True)
class DicomSeries:
    """DICOM series below a folder, found by their place and their voxels."""

    store: Store
    source: Path
    series: str | None = None
    _read: dict[OnGap, tuple[Case, ...]] = field(default_factory=dict, init=False, repr=False)
    _hash: dict[tuple[OnGap, str], str] = field(default_factory=dict, init=False, repr=False)
    _found: dict[str, Case] = field(default_factory=dict, init=False, repr=False)

    def scan(self, case: CaseRecord) -> Scan:
        wrong = ""
        for on_gap in get_args(OnGap):
            # its number is most often the same
            for candidate in sorted(self._cases(on_gap), key=lambda one: one.id != case.id):
                try:
                    scan = self._alike(candidate, case, on_gap)
                except PosconError as error:  # perhaps another way at gaps, or another series
                    wrong = wrong or (f" ({error})" if candidate.id == case.id else "")
                    continue
                if scan is not None:
                    self._found[case.id] = candidate
                    return scan
        raise PosconError(
            f"{self.source}: no DICOM series has the place and the voxels of case {case.id} of "
            f"{self.store.path}; give the folder that the store was prepared from{wrong}"
        )

    def label(self, case: CaseRecord) -> LabelSource | None:
        if case.source_label is None:
            return None
        path = Path(case.source_label)
        if path.is_absolute():  # `label` gave it to the store; else it is a mere name
            return _given(self.store, case, path)
        if case.id not in self._found:
            self.scan(case)
        return self._found[case.id].label

    def _alike(self, candidate: Case, case: CaseRecord, on_gap: OnGap) -> Scan | None:
        """The scan of a candidate as a 3-D volume, if it is that of a case of the store."""
        assert case.affine is not None  # older stores have no DICOM series
        header = read_header(candidate.image, spacing=case.stated_spacing)
        shape, place = case.geometry.shape, np.array(case.affine)
        if header.shape[:3] != shape or not same_place(shape, place, header.affine):
            return None
        key = (on_gap, candidate.id)
        if self._hash.get(key, case.pixels_sha256) != case.pixels_sha256:
            return None
        scan = read_scan(candidate.image, spacing=case.stated_spacing)
        (channel,) = candidate.all_channels
        volume = one_volume(scan.data, candidate, channel)
        self._hash[key] = pixels_sha256([volume], scan.affine)
        if self._hash[key] != case.pixels_sha256:
            return None
        return replace(first_volume(scan) if scan.data.ndim == 4 else scan, data=volume)

    def _cases(self, on_gap: OnGap) -> tuple[Case, ...]:
        if on_gap not in self._read:
            dataset = read_dataset(self.source, dicom.NAME, on_gap=on_gap, series=self.series)
            self._read[on_gap] = dataset.cases
        return self._read[on_gap]


def _given(store: Store, case: CaseRecord, path: Path) -> LabelSource:
    """The label map that a case got, on the grid of its scan.

    Raises:
        PosconError: it is not there any more.
    """
    if not path.exists():
        raise PosconError(
            f"{path}: no such file, but the labels of case {case.id} of {store.path} "
            "are from it; put it back"
        )
    return path if case.affine is None else on_grid(path, case.geometry.shape, case.affine)


def _check_geometry(store: Store, case: CaseRecord, scan: Scan) -> None:
    """Refuse a scan with another shape or orientation than the case was prepared from."""
    geometry = case.geometry
    x, y, z = scan.data.shape
    found = slice_geometry((x, y, z), scan.affine, plane=cast("Plane", geometry.plane))
    # which way the slices run may have been turned by prepare --reverse
    if (found.shape, found.permutation, found.flips[1:]) != (
        geometry.shape,
        geometry.permutation,
        geometry.flips[1:],
    ):
        raise PosconError(
            f"{scan.path}: is not the scan that case {case.id} of {store.path} was prepared "
            "from (its shape or its orientation differs); give the folder that the store was "
            "prepared from"
        )
