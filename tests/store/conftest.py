"""A small store, for the tests of stores."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.commands.prepare import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A store of three cases, the last one not labelled."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(["a", "b", "c"]):
        volume = np.random.default_rng(seed).normal(size=(5, 6, 3)).astype(np.float32)
        (folder / "scans").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.diag([1, 1, 4, 1])), folder / f"scans/{name}.nii")
        if name != "c":
            labels = (volume > 0).astype(np.uint8)
            nib.save(
                nib.Nifti1Image(labels, np.diag([1, 1, 4, 1])), folder / f"scans/{name}_seg.nii"
            )
    prepare(folder / "scans", folder / "store", labels="1=LV")
    return folder / "store"


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "store")
