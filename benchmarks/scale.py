"""What a store costs as it grows: to open, to read, to draw batches from, to train on; to prepare.

    python benchmarks/scale.py --opening
    python benchmarks/scale.py --reading [--megabytes 2000]
    python benchmarks/scale.py --batches
    systemd-run --scope -p MemoryMax=2G python benchmarks/scale.py --streaming --megabytes 8000
    python benchmarks/scale.py --prepare [SOURCE] [--megabytes 600]

Each prints a table; several may be asked for at once. Stores are synthetic, in a temporary folder
within ``--folder``, which says whose disk is measured. One thread. Medians over ``--rounds``.

``--opening``: manifests of cases of 300 slices, without arrays, each opened in a process of its
own. ``--reading``: 64 random slices of 512 x 512 a round, arrays newly opened, as local files and
through a file:// URL (which costs what an object store costs, less the network). "Not in memory":
the files' pages were dropped before (posix_fadvise), so that each slice comes from the disk, as
most do when a store is much larger than memory. What came from the disk is the kernel's own count
for this process. ``--batches``: a large store is a small one whose cases are listed many times.
``--streaming``: pre-training on a store that is larger than the memory that the process may use, in
turn with one that fits (each turn is told at once, on standard error); the limit is set from
outside, on a control group, as a container or a scheduler does it. Slices of 256 x 256, PCL with
the default settings. On a GPU (``--device cuda``) also with all slices of the small one held there.
``--prepare``: the command, start and all, with 1, 2, 4, ... processes up to all cores, on a folder
of scans, or on scans of 100 slices of 512 x 512 that are made; resampled to 1 mm.
"""

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from poscon.memory import keep_freed_memory, usable_memory
from poscon.store.local import LocalFolder
from poscon.store.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    CaseRecord,
    ChannelRecord,
    GeometryRecord,
    IntensityRecord,
    Manifest,
    Preparation,
    write_manifest,
)
from poscon.store.remote import CACHE_VARIABLE, RemoteFolder
from poscon.store.store import Store
from poscon.training.data import SliceReader, UnlabelledBatches
from poscon.training.inference import choose_device
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.timing import Training, time_loop

BATCH = 64
HELD = "held on the GPU"
MADE = "scans that are made"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opening", action="store_true")
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--prepare", nargs="?", const=MADE, metavar="SOURCE")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=2000, help="of the largest store")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view, for --streaming")
    parser.add_argument("--steps", type=int, default=20, help="of a round of --streaming")
    parser.add_argument("--device", default="cpu", help="of --streaming: cpu, cuda or auto")
    arguments = parser.parse_args()
    wanted = (arguments.opening, arguments.reading, arguments.batches, arguments.streaming)
    if not any(wanted) and arguments.prepare is None:
        parser.error("say what to measure")
    if arguments.streaming and arguments.megabytes * 1e6 < 2 * usable_memory():
        parser.error(
            f"--streaming: {usable_memory() / 1e6:.0f} MB of memory may be used, less than twice "
            "that is not streamed; set a limit (systemd-run, as above), or more --megabytes"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.opening:
            opening(folder, arguments.rounds)
        if arguments.reading:
            reading(folder, arguments.rounds, arguments.megabytes)
        if arguments.batches:
            batches(folder, arguments.rounds)
        if arguments.streaming:
            streaming(folder, arguments)
        if arguments.prepare:
            source = Path(arguments.prepare)
            if arguments.prepare == MADE:
                source = write_scans(folder / "scans", arguments.megabytes)
            preparing(folder, arguments.rounds, source)


def opening(folder: Path, rounds: int) -> None:
    """Opening a store, and listing its slices for training, against the number of cases."""
    print("| cases | slices | manifest, MB | Store, s | memory, MB | SliceReader, s | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for n in (1_000, 10_000, 100_000):
        store = folder / f"cases-{n}"
        write_store(store, n, (300, 512, 512), arrays=False)
        found = []
        for _ in range(rounds):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found.append(pool.submit(open_once, store).result())
        seconds, store_mb, listing, reader_mb = (
            statistics.median(column) for column in zip(*found, strict=True)
        )
        size = (store / MANIFEST).stat().st_size / 1e6
        print(
            f"| {n} | {300 * n} | {size:.1f} | {seconds:.2f} | {store_mb:.0f} "
            f"| {listing:.2f} | {reader_mb:.0f} |"
        )


def open_once(path: Path) -> tuple[float, float, float, float]:
    """Seconds and MB of opening a store, and of listing its slices."""
    before = memory_mb()
    seconds, store = timed(lambda: Store(path))
    opened = memory_mb()
    listing, _reader = timed(lambda: SliceReader(store, store.cases, 64))
    return seconds, opened - before, listing, memory_mb() - opened


def reading(folder: Path, rounds: int, megabytes: int) -> None:
    """Random slices a second, from memory and from the disk, as files and through a URL."""
    shape = (100, 512, 512)
    cases = max(2, round(megabytes * 1e6 / (2 * math.prod(shape))))
    path, kept = folder / "reading", folder / "kept"
    write_store(path, cases, shape, arrays=True)
    os.environ[CACHE_VARIABLE] = str(kept)
    asking, left, remote = LocalFolder(path), LocalFolder(path), RemoteFolder(f"file://{path}")
    asking.in_memory = False
    generator = np.random.default_rng(0)
    spent: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        wanted = generator.integers(shape[0] * cases, size=BATCH).tolist()
        for row, place, drop in (
            ("files, not in memory, read ahead by the system", left, path),
            ("files, not in memory, asked for by slice", asking, path),
            ("files, in memory, read ahead by the system", left, None),
            ("files, in memory, asked for by slice", asking, None),
            ("URL, the first time", remote, None),
            ("URL, kept, not in memory", remote, kept),
            ("URL, kept, in memory", remote, None),
        ):
            if drop is not None:
                drop_pages(drop)
            spent.setdefault(row, []).append(read_slices(place, wanted, shape[0]))
    slice_mb = 2 * shape[1] * shape[2] / 1e6
    print(
        f"{cases} volumes of {shape[0]} slices, {cases * shape[0] * slice_mb:.0f} MB; a slice: "
        f"{slice_mb:.2f} MB; read-ahead of the disk: {read_ahead_kb(folder)} kB"
    )
    print("| slices of | slices a second | MB a second | MB from the disk, a slice |")
    print("|---|---|---|---|")
    for row, found in spent.items():
        seconds, disk = (statistics.median(column) for column in zip(*found, strict=True))
        rate = BATCH / seconds
        print(f"| {row} | {rate:.0f} | {rate * slice_mb:.0f} | {disk / BATCH:.2f} |")


def read_slices(
    place: LocalFolder | RemoteFolder, wanted: list[int], per_case: int
) -> tuple[float, float]:
    """Seconds, and MB from the disk."""
    arrays: dict[int, np.ndarray] = {}
    before, started = read_from_disk_mb(), time.perf_counter()
    for number in wanted:
        case, number_there = divmod(number, per_case)
        if case not in arrays:
            name = case_name(case)
            arrays[case] = place.array(f"cases/{name}/image.npy", name)
        np.array(arrays[case][number_there])
    return time.perf_counter() - started, read_from_disk_mb() - before


def batches(folder: Path, rounds: int) -> None:
    """What a batch of a training costs against the number of slices."""
    path = folder / "batches"
    write_store(path, 10, (100, 128, 128), arrays=True)
    store = Store(path)
    print(
        "| slices | ms to draw an epoch's order | ms a batch of 64 | us a slice, with its share |"
    )
    print("|---|---|---|---|")
    for repeats in (1, 10, 100, 1000):
        reader = SliceReader(store, store.cases * repeats, 96)
        order, batch = epoch_seconds(reader, rounds)
        steps = len(reader) // BATCH
        each = (order / steps + batch) / BATCH
        print(f"| {len(reader)} | {order * 1e3:.2f} | {batch * 1e3:.2f} | {each * 1e6:.1f} |")


def epoch_seconds(reader: SliceReader, rounds: int) -> tuple[float, float]:
    """What an epoch's first batch takes more than the others, and one of the others."""
    made = UnlabelledBatches(reader, BATCH, rounds + 1, 0, 500)
    made.batch(0)  # maps the arrays
    steps = made.sampler.epoch_steps
    first, others = [], []
    for epoch in range(1, rounds + 1):
        first.append(timed(partial(made.batch, epoch * steps))[0])
        following = range(epoch * steps + 1, epoch * steps + min(steps, 11))
        others += [timed(partial(made.batch, step))[0] for step in following]
    batch = statistics.median(others)
    return max(0.0, statistics.median(first) - batch), batch


def streaming(folder: Path, arguments: argparse.Namespace) -> None:
    """The training loop's slices a second, on a store in memory and on one from the disk."""
    keep_freed_memory()  # as the command line does
    device, steps = choose_device(arguments.device), arguments.steps
    shape = (100, 256, 256)
    case_mb = 2 * math.prod(shape) / 1e6
    small = folder / "small", max(2, round(usable_memory() / 1e6 / 20 / case_mb))
    stores = {
        "in memory": small,
        "larger than memory": (folder / "large", round(arguments.megabytes / case_mb)),
    }
    for path, cases in stores.values():
        write_store(path, cases, shape, arrays=True)
    if device == "cuda":
        stores[HELD] = small
    spent: dict[str, list[tuple[float, float]]] = {row: [] for row in stores}
    for _ in range(arguments.rounds):
        for row, (path, _) in stores.items():
            training = pretraining(Store(path), arguments.size, device, held=row == HELD)
            before = read_from_disk_mb()
            seconds = time_loop(training, steps)
            read = read_from_disk_mb() - before  # of both chunks, the first of which is not timed
            spent[row].append((BATCH / seconds, read / (2 * steps * BATCH)))
            print(f"{row}: {spent[row][-1][0]:.0f} slices a second", file=sys.stderr, flush=True)
    print(
        f"{device}; at most {usable_memory() / 1e6:.0f} MB of memory; views of "
        f"{arguments.size} x {arguments.size}, a slice: {case_mb / shape[0]:.2f} MB; "
        f"{steps} steps of {BATCH} a round"
    )
    print("| store | MB | slices a second | relative | MB from the disk, a slice | the rounds |")
    print("|---|---|---|---|---|---|")
    for row, found in spent.items():
        rates, disk = zip(*found, strict=True)
        turns = [rate / fast for rate, (fast, _) in zip(rates, spent["in memory"], strict=True)]
        print(
            f"| {row} | {stores[row][1] * case_mb:.0f} | {statistics.median(rates):.0f} "
            f"| {statistics.median(turns):.1%} | {statistics.median(disk):.3f} "
            f"| {', '.join(f'{turn:.1%}' for turn in turns)} |"
        )


def pretraining(store: Store, size: int, device: str, *, held: bool) -> Training:
    chosen = PretrainSettings(batch=BATCH)
    learner, reader, views, batches = assemble(chosen, store, store.cases, size)
    if held:
        reader.hold(device)
    return Training(learner, views, batches, chosen.optimiser, device, chosen.precision)


def preparing(folder: Path, rounds: int, source: Path) -> None:
    """Volumes a second by the number of processes, in turn."""
    cores = os.cpu_count() or 1
    counts = [2**i for i in range(cores.bit_length()) if 2**i <= cores]
    volumes = 0
    spent: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            store = folder / "prepared"
            command = [sys.executable, "-m", "poscon", "prepare", str(source), str(store)]
            command += ["--spacing", "1", "--processes", str(count)]
            seconds, done = timed(partial(subprocess.run, command, stdout=subprocess.DEVNULL))
            if done.returncode:
                sys.exit(done.returncode)  # it has said why
            volumes = len(Store(store).cases)
            spent[count].append(volumes / seconds)
            shutil.rmtree(store)
    print(f"{volumes} volumes, {cores} cores")
    print("| processes | volumes a second | relative | the rounds |")
    print("|---|---|---|---|")
    for count, rates in spent.items():
        turns = [rate / alone for rate, alone in zip(rates, spent[1], strict=True)]
        print(
            f"| {count} | {statistics.median(rates):.2f} | {statistics.median(turns):.2f} "
            f"| {', '.join(f'{turn:.2f}' for turn in turns)} |"
        )


def write_scans(folder: Path, megabytes: int) -> Path:
    """Compressed scans of noise, of so many megabytes when they are read."""
    folder.mkdir()
    shape = (512, 512, 100)
    for number in range(max(2, round(megabytes * 1e6 / (2 * math.prod(shape))))):
        voxels = np.random.default_rng(number).integers(-500, 500, shape, np.int16)
        scan = nib.Nifti1Image(voxels, np.diag([0.75, 0.75, 5.0, 1.0]))
        nib.save(scan, folder / f"{case_name(number)}.nii.gz")
    return folder


def write_store(path: Path, cases: int, shape: tuple[int, int, int], *, arrays: bool) -> None:
    """A store of noise, its files on the disk; without arrays it can only be opened."""
    path.mkdir()
    records = []
    for number in range(cases):
        name = case_name(number)
        if arrays:
            image = np.random.default_rng(number).integers(0, 15360, shape, np.uint16)
            image = image.view(np.float16)[:, None]  # positive, below 1; one channel
            (path / "cases" / name).mkdir(parents=True)
            with (path / "cases" / name / "image.npy").open("wb") as file:
                np.save(file, image)
                file.flush()
                os.fsync(file.fileno())  # pages that are not on the disk cannot be dropped
        records.append(
            CaseRecord(
                id=name,
                subject=name,
                frame=None,
                channels=(
                    ChannelRecord(
                        f"images/{name}.nii.gz",
                        None,
                        IntensityRecord(
                            modality="CT",
                            low=-1024.0,
                            high=1432.0,
                            mean=-386.27140808,
                            std=471.03125,
                            padding=0.0,
                            percentiles=(-1.35, 3.86),
                            looks_like="CT",
                        ),
                    ),
                ),
                source_label=None,
                frame_index=None,
                geometry=GeometryRecord(
                    shape=(shape[2], shape[1], shape[0]),
                    permutation=(2, 1, 0),
                    flips=(False, False, False),
                    spacing=(1.0, 0.7421875, 0.7421875),
                    plane="axial",
                ),
                spacing_from="header",
                shape=shape,
                spacing=(1.0, 0.7421875, 0.7421875),
                class_voxels=None,
                pixels_sha256="0" * 64,
                stored_sha256="0" * 64,
            )
        )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        poscon_version="0",
        layout="plain",
        preparation=Preparation(plane="axial", spacing=None, source_spacing=None, modality=None),
        channels=("image",),
        classes=(),
        notes=(),
        cases=tuple(records),
    )
    write_manifest(path, manifest)


def case_name(number: int) -> str:
    return f"case_{number:06d}"


def drop_pages(folder: Path) -> None:
    """Let the system forget the content of a folder's files, which nobody may have mapped."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def read_from_disk_mb() -> float:
    """What the kernel has read from a disk for this process so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"]) / 1e6


def read_ahead_kb(folder: Path) -> str:
    """How much the system reads ahead on the disk of a folder."""
    device = folder.stat().st_dev
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return place.read_text().strip() if place.is_file() else "unknown"


def memory_mb() -> float:
    """Of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
