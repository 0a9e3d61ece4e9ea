"""Turn a random half of a store's volumes round; how many are then found to run the wrong way?

Nothing is written. The smaller half counts as the turned one, because a common direction of all
volumes has no truth.

    python experiments/directions.py STORE [STORE ...] --seeds 0 1 2
"""

import argparse
from pathlib import Path

import numpy as np

from poscon.alignment.align import align
from poscon.alignment.belief import believe
from poscon.alignment.likeness import compact
from poscon.alignment.thumbnails import thumbnails
from poscon.seeds import stream
from poscon.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", type=Path, nargs="+", help="prepared stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one half each")
    args = parser.parse_args()
    print("| store | seed | volumes | turned | wrong | least clearness |")
    print("|---|---|---|---|---|---|")
    for path in args.stores:
        store = Store(path)
        features = [thumbnails(store.image(case)) for case in store.cases]
        depths = [np.arange(case.shape[0]) * case.spacing[0] for case in store.cases]
        subjects = [case.subject for case in store.cases]
        for seed in args.seeds:
            generator = np.random.default_rng(stream(seed, "turned"))
            turned = generator.random(len(features)) < 0.5
            shown = [x[::-1] if t else x for x, t in zip(features, turned, strict=True)]
            names = [case.id for case in store.cases]
            found = align(shown, depths, subjects, names, seed)
            informative = [np.asarray(x.any(axis=1)) for x in shown]
            believed = believe(compact(shown), informative, depths, subjects, names, found)
            wrong = int(((believed.directions < 0) != turned).sum())
            print(
                f"| {store.name} | {seed} | {len(turned)} | {turned.sum()} | "
                f"{min(wrong, len(turned) - wrong)} | {believed.clearness.min():.2f} |"
            )


if __name__ == "__main__":
    main()
