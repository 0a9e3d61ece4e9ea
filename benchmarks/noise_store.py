"""A store of noise, of any size, to measure on: what is in the slices costs nothing.

    python benchmarks/noise_store.py STORE [--size 352] [--volumes 190] [--depth 10]

By default as many slices as the 100 patients have that the published recipe trains on for ACDC, at
the extent that it trains at: for `poscon bench STORE --recipe paper-acdc`.
"""

import argparse
import tempfile
from pathlib import Path

from versus.measuring import positive, run
from versus.slices import noise_store


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", type=positive, default=352, help="rows and columns of a slice")
    parser.add_argument("--volumes", type=positive, default=190)
    parser.add_argument("--depth", type=positive, default=10, help="slices a volume")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        noise_store(
            Path(folder), arguments.size, arguments.volumes, arguments.depth, arguments.store
        )


if __name__ == "__main__":
    run(main)
