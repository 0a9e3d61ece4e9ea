"""Cut every scan of a data set at random along its slices, as scans of a hospital are.

A copy of an nnU-Net data set, in which each scan and its label map keep one run of neighbouring
slices: a share of them drawn between --least and 1, from a first slice drawn at random.
``cuts.csv`` says which slices were kept, so that the truth about positions is known.

    python experiments/cut_scans.py DATASET OUT --seed 0
"""

import argparse
import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from poscon.seeds import stream

AXIS = 2


def draw_cut(n_slices: int, least: float, generator: np.random.Generator) -> tuple[int, int]:
    """The first kept slice and the one after the last."""
    kept = max(2, round(generator.uniform(least, 1) * n_slices))
    first = int(generator.integers(0, n_slices - kept + 1))
    return first, first + kept


def cut(source: Path, target: Path, first: int, end: int) -> None:
    image = nib.load(source)
    nib.save(image.slicer[:, :, first:end], target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--least", type=float, default=0.3, help="smallest share of slices kept")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for folder in ("imagesTr", "labelsTr"):
        (args.out / folder).mkdir(parents=True)
    shutil.copy(args.data / "dataset.json", args.out)
    rows = []
    for label in sorted((args.data / "labelsTr").glob("*.nii.gz")):
        case = label.name.removesuffix(".nii.gz")
        n_slices = nib.load(label).shape[AXIS]
        generator = np.random.default_rng(stream(args.seed, "cut", case))
        first, end = draw_cut(n_slices, args.least, generator)
        for image in (args.data / "imagesTr").glob(f"{case}_*.nii.gz"):
            cut(image, args.out / "imagesTr" / image.name, first, end)
        cut(label, args.out / "labelsTr" / label.name, first, end)
        rows.append({"case": case, "first": first, "end": end, "slices": n_slices})
    with (args.out / "cuts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
