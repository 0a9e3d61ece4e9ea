"""A scan of a gigabyte through ``prepare`` and ``predict``: memory, grid, and signs of life.

    python reliability/big_scan.py [--slices 2000] [--size 512] [--seed 0] [--folder FOLDER]

Writes a synthetic CT, compressed and not compressed, and a label map. ``poscon prepare`` takes a
case with the label map and one without, with its slices as scanned and resampled to 1 mm. ``poscon
predict`` segments both files with a small network that was trained on a tiny phantom. Each runs in
processes of its own, whose resident memory is added up while they run. It is printed as a multiple
of the scan (two bytes a voxel), after what poscon needs for a scan of no size was taken off.
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nibabel as nib
import numpy as np
from memory_of import Watched, watch
from outcomes import Promise, finish

from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.seeds import stream
from poscon.volumes.phantom import write_phantom

SPACING = (0.75, 0.75, 0.75)
"""Mm."""
MOST = {"prepare": 3.0, "predict": 4.0}
"""Times the scan."""
SILENCE = 60.0
"""Seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the scratch files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        finish(trial(Path(name), arguments.slices, arguments.size, arguments.seed))


def trial(folder: Path, slices: int, size: int, seed: int) -> list[Promise]:
    """Send a scan through both commands.

    Args:
        folder: an empty folder.
        slices: number of slices.
        size: rows and columns of a slice.
        seed: for the noise.
    """
    memory = Promise("the memory is at most 3 (prepare) and 4 (predict) times the scan")
    grid = Promise("a label map has the grid of its scan")
    life = Promise("there is a sign of life in every minute")
    ends = Promise("the command ends well")
    run = train(folder / "small")
    scans, tiny = folder / "scans", folder / "tiny"
    write_scan(scans, slices, size, seed)
    write_scan(tiny, 4, 32, seed)
    bare = {
        "prepare": watch(poscon("prepare", tiny, folder / "none.store", "--processes", "1")),
        "predict": watch(poscon("predict", run, tiny / "imagesTr", folder / "none")),
    }

    def note(what: str, watched: Watched) -> None:
        command = what.split()[0]
        more = (watched.peak - bare[command].peak) / (2 * slices * size * size)
        print(
            f"{what}: {watched.seconds:.0f} s, {watched.peak / 2**20:,.0f} MiB at most, of which "
            f"{bare[command].peak / 2**20:.0f} without a scan; {more:.2f} times the scan; "
            f"longest silence {watched.silence:.0f} s",
            flush=True,
        )
        ends.note(watched.code == 0, f"{what}: {watched.said[-500:]}")
        memory.note(more <= MOST[command], f"{what}: {more:.2f} times")
        life.note(watched.silence < SILENCE, f"{what}: {watched.silence:.0f} s")

    for spacing, terminal in (("native", False), ("1.0", True)):
        store = folder / f"{spacing}.store"
        options = ("--processes", "1", "--spacing", spacing)
        command = poscon("prepare", scans, store, *options)
        note(f"prepare --spacing {spacing}", watch(command, terminal=terminal))
    for file, terminal in (("labelled.nii.gz", False), ("plain.nii", True)):
        scan, target = scans / "imagesTr" / file, folder / f"predicted-{file}"
        note(f"predict {file}", watch(poscon("predict", run, scan, target), terminal=terminal))
        grid.note(target.is_file() and same_grid(scan, target), file)
    return [ends, memory, grid, life]


def poscon(*arguments: object) -> list[str]:
    """The command line, in a process of its own."""
    return [sys.executable, "-m", "poscon", *map(str, arguments)]


def train(folder: Path) -> Path:
    """A small network for CT, as scanned; the folder of its run."""
    write_phantom(folder / "scans", subjects=3, seed=1)
    settings = ["network.width=4", "network.levels=2", "size=32", "batch=4"]
    prepare(folder / "scans", folder / "store", spacing="native", modality="CT", processes=1)
    finetune(
        folder / "store", folder / "run", labelled=2, method="supervised", iterations=4,
        settings=settings,
    )  # fmt: skip
    return folder / "run"


def write_scan(folder: Path, slices: int, size: int, seed: int) -> None:
    """A data set of two cases: one compressed with a label map, one neither."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    shape = (size, size, slices)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as open_files:
        plain = open_files.enter_context((folder / "imagesTr" / "plain.nii").open("wb"))
        packed, labels = (
            open_files.enter_context(gzip.open(folder / part / "labelled.nii.gz", "wb", 1))
            for part in ("imagesTr", "labelsTr")
        )
        for file, kind in ((plain, np.int16), (packed, np.int16), (labels, np.uint8)):
            header = nib.Nifti1Header()
            header.set_data_dtype(kind)
            header.set_data_shape(shape)
            header.set_xyzt_units("mm")
            header.set_sform(affine, 1)
            header.set_zooms(SPACING)
            header["vox_offset"], header["magic"] = 352, b"n+1"
            header.set_slope_inter(1, 0)
            file.write(header.binaryblock + bytes(4))
        for image, label in draw(slices, size, seed):
            plain.write(image.tobytes())
            packed.write(image.tobytes())
            labels.write(label.tobytes())
    about = {
        "labels": {"0": "background", "1": "body", "2": "organ"},
        "modality": {"0": "CT"},
        "training": [
            {"image": "./imagesTr/labelled.nii.gz", "label": "./labelsTr/labelled.nii.gz"}
        ],
        "test": ["./imagesTr/plain.nii"],
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def draw(slices: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Slices of a synthetic CT with its classes, (size, size) int16 and uint8 each."""
    generator = np.random.default_rng(stream(seed, "a big scan"))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = x**2 / 0.7 + y**2 / 0.5 < 1
    for number in range(slices):
        turn = 2 * np.pi * number / slices
        organ = (x - 0.3 * np.cos(turn)) ** 2 + (y - 0.3 * np.sin(turn)) ** 2 < 0.05
        label = body.astype(np.uint8) + organ
        values = np.array([-1000, 40, 120], np.int16)[label]
        values += generator.integers(-60, 60, values.shape, np.int16)
        yield values, label


def same_grid(scan: Path, label: Path) -> bool:
    """Whether a label map has the shape, the affine and the codes of its scan."""
    one, other = nib.load(scan), nib.load(label)
    codes = [(int(i.header["sform_code"]), int(i.header["qform_code"])) for i in (one, other)]
    return bool(
        one.shape == other.shape and (one.affine == other.affine).all() and codes[0] == codes[1]
    )


if __name__ == "__main__":
    main()
