"""How often a 95 % interval of a mean holds the true mean, for a few subjects: two kinds.

    python experiments/intervals.py [--studies 4000]

Studies are simulated from values whose mean is known: normal ones, Dice of a beta distribution, and
gains of which one in ten is large. The table has the share of the studies whose interval holds the
true mean, and how much wider Student's t is than the bias-corrected and accelerated bootstrap (BCa,
999 resamples).
"""

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import scipy.stats

from poscon.statistics import Interval, mean_interval

Draw = Callable[[np.random.Generator, int], np.ndarray]


def gains(rng: np.random.Generator, n: int) -> np.ndarray:
    """Gains in Dice: small ones of either sign, and one in ten around 0.3."""
    return np.where(rng.random(n) < 0.1, rng.normal(0.3, 0.1, n), rng.normal(0.0, 0.03, n))


VALUES: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(0.0, 1.0, n), 0.0),
    "Dice": (lambda rng, n: rng.beta(12.0, 1.5, n), 12 / 13.5),
    "few large gains": (gains, 0.03),
}
"""By name: values of n subjects, and their true mean."""


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> Interval:
    found = scipy.stats.bootstrap((values,), np.mean, n_resamples=999, rng=rng)
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    warnings.simplefilter("ignore")  # of studies without one large gain
    print("| values | subjects | BCa | Student's t | width of t against BCa |")
    print("|---|---|---|---|---|")
    for name, (draw, truth) in VALUES.items():
        for n in (8, 10, 20, 40):
            rng = np.random.default_rng(0)
            samples = [draw(rng, n) for _ in range(studies)]
            pairs = [(bootstrap(values, rng), mean_interval(values)) for values in samples]
            old, new = (np.mean([truth in pair[k] for pair in pairs]) for k in (0, 1))
            wide = np.mean([(t.high - t.low) / (b.high - b.low) for b, t in pairs])
            print(f"| {name} | {n} | {old:.2f} | {new:.2f} | {wide:.2f} |")


if __name__ == "__main__":
    main()
