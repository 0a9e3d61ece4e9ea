"""How long `poscon align` takes to place volumes, once it has read them.

    python benchmarks/alignment.py [--volumes 1000] [--slices 150] [--dimension 256]

The volumes are synthetic: parts of one curve of features, which begin anywhere, with noise that
varies smoothly from slice to slice and from patient to patient. Printed are the seconds, those of
all cores together, the most memory that was in use beyond the volumes (the resident set of the
process, Linux only), and how far the volumes lie from where they were cut.
"""

import argparse
import resource
import time
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from poscon.alignment.align import align
from poscon.alignment.belief import believe
from poscon.alignment.likeness import compact

SPACING_MM = 3.0
SMOOTH = 5.0
"""Standard deviation, in slices, of the Gaussian that makes features smooth."""
NOISE = 0.5
"""Of a patient, relative to what all share."""


@dataclass(frozen=True)
class Measured:
    """What :func:`measure` found.

    Attributes:
        seconds: from the first feature to the last position.
        cpu_seconds: the same of all cores together.
        mebibytes: beyond what was in use before.
        error_mm: median distance of a volume from where it was cut, after the best shift of all.
    """

    seconds: float
    cpu_seconds: float
    mebibytes: float
    error_mm: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--dimension", type=int, default=256)
    arguments = parser.parse_args()
    found = measure(arguments.volumes, arguments.slices, arguments.dimension)
    print(f"{arguments.volumes} volumes of {arguments.slices} slices")
    print(
        f"{found.seconds:.0f} s, {found.cpu_seconds:.0f} s of all cores, {found.mebibytes:.0f} MiB,"
        f" {found.error_mm:.1f} mm from where they were cut"
    )


def measure(volumes: int, slices: int, dimension: int) -> Measured:
    """Place volumes that are cut from one curve, which is twice as long as each of them."""
    generator = np.random.default_rng(0)
    curve = _smooth(generator, 2 * slices, dimension)
    starts = generator.integers(0, slices + 1, volumes)
    features = [
        curve[start : start + slices] + NOISE * _smooth(generator, slices, dimension)
        for start in starts
    ]
    depths = [np.arange(slices) * SPACING_MM] * volumes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    each = [str(number) for number in range(volumes)]
    found = align(features, depths, each, each)
    informative = [np.ones(slices, bool)] * volumes
    believe(compact(features), informative, depths, each, each, found)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    apart = found.ends.mean(axis=1) - starts * SPACING_MM
    error = float(np.median(np.abs(apart - np.median(apart))))
    return Measured(seconds, cpu_seconds, (after - before) / 1024, error)


def _smooth(generator: np.random.Generator, slices: int, dimension: int) -> np.ndarray:
    """(slices, dimension) float64 that vary smoothly, of variance 1."""
    noise = generator.standard_normal((slices, dimension))
    smooth = gaussian_filter1d(noise, SMOOTH, axis=0, mode="wrap")
    return np.asarray(smooth / smooth.std())


if __name__ == "__main__":
    main()
