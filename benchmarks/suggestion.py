"""How long each strategy of `poscon suggest` takes to choose, without reading a store.

    python benchmarks/suggestion.py [--slices 100000] [--dimension 128] [--budget 50]
                                    [--subjects 1000] [--labelled 0]

The embeddings are random. For facility location this is the worst case: every slice that is chosen
covers a part of all others. Uncertainties are random too. Each strategy is run once, in a process
of its own. Printed are the seconds, how many times as long that is as `spread`, and the most memory
that was in use beyond the most while the embeddings were made (the resident set of the process,
Linux only).
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from poscon.suggestion import STRATEGIES, find_strategy
from poscon.suggestion.base import Pool
from poscon.suggestion.pool import unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--labelled", type=int, default=0, help="slices of the first subjects")
    arguments = parser.parse_args()
    sizes = (arguments.slices, arguments.dimension, arguments.subjects, arguments.labelled)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        found = {
            name: processes.submit(measure, name, arguments.budget, *sizes).result()
            for name in STRATEGIES
        }
    baseline, _ = found["spread"]
    print(f"{arguments.slices} slices, {arguments.dimension} values, budget {arguments.budget}")
    print("strategy     seconds    x spread    memory (MiB)")
    for name, (seconds, mebibytes) in found.items():
        print(f"{name:10} {seconds:9.2f} {seconds / baseline:11.2f} {mebibytes:15.0f}")


def measure(
    name: str, budget: int, slices: int, dimension: int, subjects: int, labelled: int
) -> tuple[float, float]:
    """Seconds and MiB of one strategy."""
    generator = np.random.default_rng(0)
    subject_of = np.arange(slices) * subjects // slices
    pool = Pool(
        subject_of,
        np.arange(slices) < labelled,
        generator.random(slices),
        unit(generator.standard_normal((slices, dimension), np.float32)),
        generator.random(slices),
    )
    strategy = find_strategy(name)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    strategy.choose(pool, budget, 0)
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
