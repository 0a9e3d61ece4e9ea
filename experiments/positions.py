"""How far from the truth are positions in abdominal CT, whole and cut at random?

The scans of an nnU-Net data set are taken whole, and cut at random to 30 to 100 % of their slices
(once for each seed; with ``--scans`` so many of them). Each set is prepared and aligned from its
images alone. Then the centroid of an organ in one patient is carried to every other patient by the
position, and compared with the centroid of the organ there. The label maps are read for this
comparison only, and of the uncut scans, so the truth is known outside the cut too.

``best shift`` and ``best shift and scale`` are fitted to the centroids themselves. They show what
placing whole volumes can reach at best. OUT has the cut data sets, a store and its picture for
each, and ``positions.csv``.

    python experiments/positions.py Dataset101_BTCV OUT --seeds 0 1 2
"""

import argparse
import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from poscon.commands.align import align
from poscon.commands.prepare import prepare
from poscon.positions import POSITIONS
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store

ORGANS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}
LEAST = 0.3
PIXEL_MM = 4.0
ROUNDS = 300
SCALES = 0.7, 1.4
"""Least and largest scale of a volume."""
Line = tuple[float, float]
"""Position at slice 0 of the uncut scan, and from one slice to the next."""


def draw_cut(n_slices: int, generator: np.random.Generator) -> tuple[int, int]:
    """The first kept slice and the one after the last."""
    kept = max(2, round(generator.uniform(LEAST, 1) * n_slices))
    first = int(generator.integers(0, n_slices - kept + 1))
    return first, first + kept


def draw_cuts(data: Path, seed: int) -> dict[str, tuple[int, int]]:
    """By case: what :func:`draw_cut` keeps of it."""
    cuts = {}
    for label in sorted((data / "labelsTr").glob("*.nii.gz")):
        case = label.name.removesuffix(".nii.gz")
        generator = np.random.default_rng(stream(seed, "cut", case))
        cuts[case] = draw_cut(nib.load(label).shape[2], generator)
    return cuts


def cut_data(
    data: Path, out: Path, seed: int, n_scans: int | None = None
) -> dict[str, tuple[int, int]]:
    """Write a copy of the data set with cut scans and label maps; what was kept of each.

    Args:
        data: folder of the data set.
        out: folder to write.
        seed: decides the cuts, and which scans are taken.
        n_scans: how many of the scans, at random; None: all.
    """
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir(parents=True)
    shutil.copy(data / "dataset.json", out)
    cuts = draw_cuts(data, seed)
    if n_scans is not None:
        generator = np.random.default_rng(stream(seed, "scans"))
        taken = set(generator.choice(list(cuts), n_scans, replace=False).tolist())
        cuts = {case: cut for case, cut in cuts.items() if case in taken}
    for case, (first, end) in cuts.items():
        label = data / "labelsTr" / f"{case}.nii.gz"
        for file in (label, *(data / "imagesTr").glob(f"{case}_*.nii.gz")):
            kept = nib.load(file).slicer[:, :, first:end]
            nib.save(kept, out / file.parent.name / file.name)
    return cuts


def centroids(data: Path) -> dict[str, dict[str, float]]:
    """By case and organ: the number of the slice in which its centroid lies, with a fraction."""
    found: dict[str, dict[str, float]] = {}
    for file in sorted((data / "labelsTr").glob("*.nii.gz")):
        label = np.asarray(nib.load(file).dataobj)
        of_case = found.setdefault(file.name.removesuffix(".nii.gz"), {})
        for organ, value in ORGANS.items():
            areas = (label == value).sum(axis=(0, 1))
            if areas.any():
                of_case[organ] = float((areas * np.arange(len(areas))).sum() / areas.sum())
    return found


def lines(store: Store, kind: str, cuts: Mapping[str, tuple[int, int]]) -> dict[str, Line]:
    """The position of a kind by the number of the slice in the uncut scan."""
    found = {}
    for case in store.cases:
        at = POSITIONS[kind].of_slices(case)  # type: ignore[index]
        step = float(at[-1] - at[0]) / (len(at) - 1)
        found[case.id] = float(at[0]) - step * cuts[case.id][0], step
    return found


def best_fits(
    known: Mapping[str, Mapping[str, float]], mm: Mapping[str, float], scaled: bool
) -> dict[str, Line]:
    """The shifts, and scales if wanted, that bring the centroids of each organ nearest together.

    They are fitted to the mean of each organ by least squares, time after time. The geometric mean
    of the scales is 1, and none is beyond :data:`SCALES`.
    """
    shifts, scales = dict.fromkeys(known, 0.0), dict.fromkeys(known, 1.0)
    for _ in range(ROUNDS):
        means = {
            organ: np.mean(
                [
                    shifts[case] + scales[case] * mm[case] * at[organ]
                    for case, at in known.items()
                    if organ in at
                ]
            )
            for organ in ORGANS
        }
        for case, at in known.items():
            x = np.array([mm[case] * at[organ] for organ in at])
            y = np.array([means[organ] for organ in at])
            if scaled:
                slope = np.cov(x, y, bias=True)[0, 1] / max(x.var(), 1e-12)
                scales[case] = float(np.clip(slope, *SCALES))
            shifts[case] = float(y.mean() - scales[case] * x.mean())
        unit = float(np.exp(np.mean(np.log(list(scales.values())))))
        shifts = {case: shift / unit for case, shift in shifts.items()}
        scales = {case: scale / unit for case, scale in scales.items()}
    return {case: (shifts[case], scales[case] * mm[case]) for case in known}


def by_organs(data: Path, seed: int, cases: Sequence[CaseRecord]) -> np.ndarray:
    """Positions in mm of the slices of cut scans, case after case, by the organs of the uncut ones.

    They come from the best shifts and scales, see :func:`best_fits`.
    """
    known, cuts = centroids(data), draw_cuts(data, seed)
    mm = {
        case: float(nib.load(data / "labelsTr" / f"{case}.nii.gz").header.get_zooms()[2])
        for case in known
    }
    fits = best_fits(known, mm, scaled=True)
    found = []
    for case in cases:
        start, step = fits[case.id]
        found.append(start + step * (cuts[case.id][0] + np.arange(case.shape[0])))
    return np.concatenate(found)


def errors(
    positions: Mapping[str, Line],
    known: Mapping[str, Mapping[str, float]],
    cuts: Mapping[str, tuple[int, int]],
    mm: Mapping[str, float],
) -> np.ndarray:
    """In mm, for each organ inside each cut scan, carried to each other patient."""
    found = []
    for case, at in known.items():
        for organ, number in at.items():
            if not cuts[case][0] <= number < cuts[case][1]:
                continue
            position = positions[case][0] + positions[case][1] * number
            for other, there in known.items():
                if other != case and organ in there:
                    start, step = positions[other]
                    found.append(abs((position - start) / step - there[organ]) * mm[other])
    return np.array(found)


def spreads(
    positions: Mapping[str, Line], known: Mapping[str, Mapping[str, float]], mm_each: float
) -> list[float]:
    """Standard deviation in mm of the position of each organ's centroid over the patients."""
    return [
        mm_each
        * float(np.std([start + step * known[case][organ]
                        for case, (start, step) in positions.items() if organ in known[case]]))
        for organ in ORGANS
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("out", type=Path, help="new folder to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one cut each")
    parser.add_argument("--scans", type=int, help="cut so many of the scans only, at random")
    args = parser.parse_args(arguments)
    of_all = centroids(args.data)
    rows = []
    print("| scans | position | mean error (mm) | 95 % (mm) | spread of organs (mm) |")
    print("|---|---|---|---|---|")
    for seed in [None, *args.seeds]:
        name, data = (
            ("whole", args.data) if seed is None else (f"cut{seed}", args.out / f"cut{seed}")
        )
        cuts = None if seed is None else cut_data(args.data, data, seed, args.scans)
        known = of_all if cuts is None else {case: of_all[case] for case in cuts}
        prepare(data, args.out / f"{name}.store", spacing=PIXEL_MM, modality="CT")
        align(args.out / f"{name}.store")
        store = Store(args.out / f"{name}.store")
        if cuts is None:
            cuts = {case.id: (0, case.shape[0]) for case in store.cases}
        mm = {case.id: case.spacing[0] for case in store.cases}
        length = float(np.mean([case.shape[0] * case.spacing[0] for case in store.cases]))
        kinds = {kind: lines(store, kind, cuts) for kind in ("relative", "physical", "learned")}
        kinds["best shift"] = best_fits(known, mm, scaled=False)
        kinds["best shift and scale"] = best_fits(known, mm, scaled=True)
        for kind, positions in kinds.items():
            distances = errors(positions, known, cuts, mm)
            spread = spreads(positions, known, length if kind == "relative" else 1.0)
            row = {
                "scans": name,
                "position": kind,
                "mean_mm": round(float(distances.mean()), 1),
                "p95_mm": round(float(np.quantile(distances, 0.95)), 1),
                **{organ: round(s, 1) for organ, s in zip(ORGANS, spread, strict=True)},
            }
            rows.append(row)
            organs = ", ".join(f"{organ} {row[organ]:.0f}" for organ in ORGANS)
            print(f"| {name} | {kind} | {row['mean_mm']} | {row['p95_mm']} | {organs} |")
    with (args.out / "positions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
