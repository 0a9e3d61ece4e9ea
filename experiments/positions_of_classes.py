"""How far from the truth are positions in whole scans, by the labels of a store?

The centroid of a class in one patient is carried to every other patient by the position, and
compared with the centroid of the class there. The store is labelled, and ``poscon align`` was run
on it; the labels are read for this comparison only. Of a subject with several scans the first is
taken. ``images`` is where the images put the scans, also where ``align`` does not believe them.

    python experiments/positions_of_classes.py STORE [STORE ...]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from positions import Line, errors, lines

from poscon.alignment.align import align
from poscon.alignment.thumbnails import thumbnails
from poscon.positions import POSITIONS
from poscon.seeds import stream
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store


def centroids(store: Store, cases: Sequence[CaseRecord]) -> dict[str, dict[str, float]]:
    """By case and class: the number of the slice in which its centroid lies, with a fraction."""
    found: dict[str, dict[str, float]] = {}
    for case in cases:
        label = store.label(case)
        of_case = found.setdefault(case.id, {})
        for index, name in enumerate(store.class_names, start=1):
            areas = (label == index).sum(axis=(1, 2))
            if areas.any():
                of_case[name] = float((areas * np.arange(len(areas))).sum() / areas.sum())
    return found


def by_images(store: Store) -> dict[str, Line]:
    """By case: the coordinate of its first slice where the images put it, and the step, in mm."""
    cases = store.cases
    depths = [np.arange(case.shape[0]) * case.spacing[0] for case in cases]
    subjects, names = [case.subject for case in cases], [case.id for case in cases]
    features = [thumbnails(store.image(case)) for case in cases]
    found = align(features, depths, subjects, names, stream(0, "align"))
    return {
        case.id: (float(first), float(last - first) / max(1, case.shape[0] - 1))
        for case, (first, last) in zip(cases, found.ends, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+")
    print("| store | subjects | position | mean error (mm) | 95 % (mm) |\n|---|---|---|---|---|")
    for path in parser.parse_args().stores:
        store = Store(path)
        first = {case.subject: case for case in reversed(store.cases) if case.labelled}
        cases = [first[subject] for subject in sorted(first)]
        known = centroids(store, cases)
        whole = {case.id: (0, case.shape[0]) for case in store.cases}
        mm = {case.id: case.spacing[0] for case in cases}
        kinds: dict[str, dict[str, Line]] = {kind: lines(store, kind, whole) for kind in POSITIONS}
        kinds["images"] = by_images(store)
        for kind, placed in kinds.items():
            apart = errors({case: placed[case] for case in known}, known, whole, mm)
            print(
                f"| {path.name} | {len(cases)} | {kind} | {apart.mean():.2f} "
                f"| {np.quantile(apart, 0.95):.2f} |"
            )


if __name__ == "__main__":
    main()
