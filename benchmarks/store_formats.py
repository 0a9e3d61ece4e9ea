"""Memory-mapped npy, zarr v3 and blosc2 as the store's format: size, and random slices a second.

    pip install -e '.[benchmarks]'
    python benchmarks/store_formats.py STORE [--reads 4000] [--rounds 5]

STORE is a prepared store; its images are rewritten in every format in a temporary folder beside it
(chunk = one slice; compressors at their defaults for float data). Then batches of 64 random slices
are read, each cut to 128 x 128 as training does, on one core, from a warm page cache, the formats
in turn, `rounds` times; the medians are printed, with ratios to npy.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import zarr

from poscon.store.store import Store

Read = Callable[[int, int], np.ndarray]
EXTENT = 128


def write_npy(folder: Path, name: str, image: np.ndarray) -> Any:
    np.save(folder / f"{name}.npy", image)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def write_zarr(folder: Path, name: str, image: np.ndarray) -> Any:
    array = zarr.create_array(
        folder / f"{name}.zarr",
        shape=image.shape,
        dtype=image.dtype,
        chunks=(1, *image.shape[1:]),
        compressors=zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
    )
    array[:] = image
    return zarr.open_array(folder / f"{name}.zarr", mode="r")


def write_blosc2(folder: Path, name: str, image: np.ndarray) -> Any:
    path = str(folder / f"{name}.b2nd")
    blosc2.asarray(
        image,
        chunks=(1, *image.shape[1:]),
        urlpath=path,
        mode="w",
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1},
    )
    return blosc2.open(path, mode="r", dparams={"nthreads": 1}, mmap_mode="r")


FORMATS = {
    "npy, memory-mapped": write_npy,
    "zarr v3, zstd": write_zarr,
    "blosc2, zstd": write_blosc2,
}


def cut(array: Any, number: int) -> np.ndarray:
    """The middle of one slice, as a copy in memory."""
    _, rows, columns = array.shape
    top, left = max(0, (rows - EXTENT) // 2), max(0, (columns - EXTENT) // 2)
    return np.array(array[number, top : top + EXTENT, left : left + EXTENT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--reads", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {0})
    store = Store(arguments.store)
    with tempfile.TemporaryDirectory(dir=arguments.store.parent) as folder:
        arrays, sizes = {}, {}
        for name, write in FORMATS.items():
            place = Path(folder) / name.split(",")[0].replace(" ", "")
            place.mkdir()
            arrays[name] = [
                write(place, case.id, np.array(store.image(case)[:, 0])) for case in store.cases
            ]
            sizes[name] = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        generator = np.random.default_rng(0)
        cases = generator.integers(len(store.cases), size=arguments.reads)
        numbers = [int(generator.integers(store.cases[case].shape[0])) for case in cases]
        times: dict[str, list[float]] = {name: [] for name in FORMATS}
        for name in FORMATS:  # warm the page cache
            for array in arrays[name]:
                array[:]
        for _ in range(arguments.rounds):
            for name in FORMATS:
                started = time.perf_counter()
                for case, number in zip(cases, numbers, strict=True):
                    cut(arrays[name][case], number)
                times[name].append(time.perf_counter() - started)
    base = next(iter(FORMATS))
    print("| format | MB on disk | relative | slices a second, one core | relative |")
    print("|---|---|---|---|---|")
    speed = {name: arguments.reads / statistics.median(values) for name, values in times.items()}
    for name in FORMATS:
        print(
            f"| {name} | {sizes[name] / 1e6:.0f} | {sizes[name] / sizes[base]:.2f} "
            f"| {speed[name]:.0f} | {speed[name] / speed[base]:.3f} |"
        )


if __name__ == "__main__":
    main()
