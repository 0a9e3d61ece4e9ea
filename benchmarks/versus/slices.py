"""Made-up slices, and the slices of a store one at a time, as other libraries want them."""

from pathlib import Path

import nibabel as nib
import numpy as np

from poscon.commands.prepare import prepare
from poscon.store.store import Store
from poscon.training.data import SliceReader


def noise_store(
    folder: Path, size: int, volumes: int, depth: int, store: Path | None = None
) -> Store:
    """A store of volumes of ``depth`` slices of ``size`` x ``size`` pixels, all noise.

    Args:
        folder: for the scans, and for the store if it is to be nowhere else.
        size: rows and columns.
        volumes: how many.
        depth: slices of each.
        store: where to write it.
    """
    scans = folder / f"scans-{size}"
    scans.mkdir()
    generator = np.random.default_rng(size)
    for number in range(volumes):
        voxels = generator.normal(100, 20, (size, size, depth)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1, 8, 1])), scans / f"{number:03d}.nii")
    return prepare(scans, store or folder / f"store-{size}", spacing="native", processes=1)


def image_file(reader: SliceReader, index: int) -> Path:
    """The file with the volume that a slice belongs to."""
    return Path(reader.store.path) / "cases" / reader.cases[reader.case_of[index]].id / "image.npy"


def read_slice(reader: SliceReader, index: int) -> np.ndarray:
    """(channels, rows, columns) float32."""
    volume = reader.store.image(reader.cases[reader.case_of[index]])
    return volume[reader.slice_of[index]].astype(np.float32)
