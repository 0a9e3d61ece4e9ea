"""How label maps differ from scans by their values, for the limits in ``volumes/label_maps.py``.

Of each kind of file, up to 12 are drawn. Prints how many different values they have, and the share
of neighbouring voxels, not both 0, that have the same value.

    python experiments/label_map_values.py ../shared/data
"""

import random
import sys
from pathlib import Path

import numpy as np

from poscon.volumes.label_maps import looks_like_label_map, same_as_neighbour
from poscon.volumes.scan import read_scan

KINDS = {
    "ACDC": ("acdc/training/*/*frame??.nii.gz", "acdc/training/*/*_gt.nii.gz"),
    "M&Ms": ("mms/*/*/*_E?.nii.gz", "mms/*/*/*_gt.nii.gz"),
    "Hippocampus": ("msd/*/imagesTr/*.nii.gz", "msd/*/labelsTr/*.nii.gz"),
    "BTCV": ("nnUNet_raw/*/imagesTr/*.nii.gz", "nnUNet_raw/*/labelsTr/*.nii.gz"),
    "CHAOS": ("chaos_t2/images/*.nii.gz", "chaos_t2/labels/*.nii.gz"),
}


def main(root: Path) -> None:
    chance = random.Random(0)
    for name, patterns in KINDS.items():
        for kind, pattern in zip(("scans", "label maps"), patterns, strict=True):
            files = sorted(root.glob(pattern))
            files = chance.sample(files, min(12, len(files)))
            if not files:
                continue
            volumes = [read_scan(file).data for file in files]
            values = [len(np.unique(volume)) for volume in volumes]
            shares = [same_as_neighbour(volume) for volume in volumes]
            found = sum(map(looks_like_label_map, volumes))
            print(
                f"{name:12} {kind:10} {len(files):2} files, {min(values):4} to {max(values):4} "
                f"values, share {min(shares):.2f} to {max(shares):.2f}, {found} taken as label maps"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
