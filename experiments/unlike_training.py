"""How often a scan is warned of as unlike the training data though it is of the same data set.

    python experiments/unlike_training.py STORE [STORE ...]

Subjects are drawn as training cases 20 times, and every case of the other subjects is compared with
them. The printed share are false alarms.
"""

import sys
from collections import Counter

import numpy as np
from msgspec.structs import asdict

from poscon.store.store import Store
from poscon.store.training_range import TrainingRange
from poscon.volumes.geometry import SliceGeometry

DRAWS = 20


def main(paths: list[str]) -> None:
    """Print a line for each store and number of training subjects."""
    for path in paths:
        store = Store(path)
        subjects = sorted({case.subject for case in store.cases})
        random = np.random.default_rng(0)
        for n in (1, 2, 5):
            kinds: Counter[str] = Counter()
            compared = warned = 0
            for _ in range(DRAWS):
                drawn = set(random.permutation(subjects)[:n])
                training = TrainingRange.of(store, [c for c in store.cases if c.subject in drawn])
                for case in store.cases:
                    if case.subject in drawn:
                        continue
                    found = training.differences(
                        SliceGeometry(**asdict(case.geometry)),
                        case.spacing_from,
                        store.manifest.preparation,
                        [channel.intensity for channel in case.channels],
                    )
                    compared, warned = compared + 1, warned + bool(found)
                    kinds.update({difference.kind for difference in found})
            print(f"{store.name}: {n} subject(s): {warned / compared:.1%} warned, {dict(kinds)}")


if __name__ == "__main__":
    main(sys.argv[1:])
