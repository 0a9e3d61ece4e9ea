"""The benchmarks are scripts beside the package: their folder goes on the path."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture
def one_scan(scans: Path, tmp_path: Path) -> Path:
    """A labelled phantom alone, 2.5 mm in plane to the last digit, so that nothing is resampled."""
    for kind in ("images", "labels"):
        (tmp_path / "scan" / kind).mkdir(parents=True)
        drawn = nib.load(scans / f"{kind}Tr" / "phantom_000.nii.gz")
        spacing = np.linalg.norm(drawn.affine[:3, :3], axis=0)
        affine = drawn.affine.copy()
        affine[:3, :3] *= np.where(spacing > 4, 6.0, 2.5) / spacing
        scan = nib.Nifti1Image(np.asanyarray(drawn.dataobj), affine)
        nib.save(scan, tmp_path / "scan" / kind / "phantom.nii.gz")
    return tmp_path / "scan"
