"""How far from the truth are positions in whole scans, by the labels of a store?

The centroid of a class in one patient is carried to every other patient by the position, and
compared with the centroid of the class there. The store is labelled, and ``poscon align`` was run
on it; the labels are read for this comparison only. Of a subject with several scans the first is
taken.

    python experiments/positions_of_classes.py STORE [STORE ...]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from positions import errors, lines

from poscon.positions import POSITIONS
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
        for kind in POSITIONS:
            apart = errors(lines(store, kind, whole), known, whole, mm)
            print(
                f"| {path.name} | {len(cases)} | {kind} | {apart.mean():.2f} "
                f"| {np.quantile(apart, 0.95):.2f} |"
            )


if __name__ == "__main__":
    main()
