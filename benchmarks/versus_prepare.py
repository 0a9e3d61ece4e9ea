"""``poscon.prepare`` against the same preparation with MONAI and with TorchIO.

    pip install -e '.[benchmarks]'
    python benchmarks/versus_prepare.py [FOLDER] [--processes 1 2] [--rounds 3]

FOLDER holds 3-D scans in a layout that poscon knows; without one, phantoms are drawn. All three
read the same files, slice axially, resample in plane to the data set's median spacing and write
float16 images and uint8 label maps. In turn, medians over the rounds, from a warm page cache;
starting the processes counts. What poscon does besides is in docs/explanation/speed.md.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from versus.cases import prepare_all
from versus.measuring import cores, interleaved, positive, print_table, ratio, run, versions

from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.store.store import Store
from poscon.volumes.layouts import read_dataset
from poscon.volumes.phantom import write_phantom

OURS = "poscon"

Way = Callable[[Path, int], object]
"""Prepares everything into a folder with a number of processes."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--processes", type=positive, nargs="+", default=[1, 2], help="a core each")
    parser.add_argument("--rounds", type=positive, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        scratch, source = Path(folder), arguments.folder
        if source is None:
            source = scratch / "phantoms"
            write_phantom(source)
        store = prepare(source, scratch / "store", plane="axial")
        print(f"{versions('torch', 'monai', 'torchio')}; {len(store.cases)} volumes\n")
        found = ways(source, store)
        measures = {
            (name, n): partial(volumes_per_second, way, scratch / name, n, len(store.cases))
            for n in arguments.processes
            for name, way in found.items()
        }
        rates = interleaved(measures, arguments.rounds)
        print_table(
            ["by", "processes", "volumes/s", "poscon / it", "images", "label maps"],
            [
                [
                    name,
                    str(n),
                    f"{statistics.median(values):.2f}",
                    f"{ratio(rates[OURS, n], values):.2f}",
                    *agreement(store, scratch / name),
                ]
                for (name, n), values in rates.items()
            ],
        )
    print(
        "images: mean difference from poscon's in standard deviations; label maps: share of equal "
        "pixels; both over the volumes that come out at the same size."
    )


def ways(source: Path, store: Store) -> dict[str, Way]:
    """poscon, MONAI and TorchIO on the same cases.

    The libraries are imported here: poscon's processes begin with what this file imports.

    Raises:
        PosconError: frames of 4-D files, or CT and MR mixed, which only poscon handles here.
    """
    from versus import with_monai, with_torchio

    cases = read_dataset(source).cases
    modalities = {case.modality for case in store.cases}
    several = any(case.frame_index is not None or case.channels for case in cases)
    if len(modalities) > 1 or several:
        raise PosconError(f"{source}: 4-D or of two modalities; give 3-D files of one modality")
    spacing = store.manifest.preparation.spacing
    assert spacing is not None  # auto is a number
    found: dict[str, Way] = {
        OURS: lambda target, n: prepare(source, target, plane="axial", processes=n)
    }
    for name, library in (("MONAI", with_monai), ("TorchIO", with_torchio)):
        found[name] = partial(prepare_all, cases, library.Prepare(spacing, *modalities))
    return found


def volumes_per_second(way: Way, target: Path, processes: int, volumes: int) -> float:
    shutil.rmtree(target, ignore_errors=True)
    with cores(processes):
        started = time.perf_counter()
        way(target, processes)
        return volumes / (time.perf_counter() - started)


def agreement(store: Store, folder: Path) -> tuple[str, str]:
    """How near what was written to ``folder`` is to the store: of the images, of the label maps."""
    differences, equal = [], []
    for case in store.cases:
        files = folder / "cases" / case.id
        image = np.load(files / "image.npy")
        if image.shape != case.shape:
            continue
        differences.append(np.abs(store.image(case)[:, 0].astype(np.float32) - image).mean())
        if case.labelled:
            equal.append((store.label(case) == np.load(files / "label.npy")).mean())
    same = f"{len(differences)} of {len(store.cases)} volumes"
    return (
        f"{np.mean(differences):.4f} ({same})" if differences else "none at the same size",
        f"{np.mean(equal):.4f}" if equal else "",
    )


if __name__ == "__main__":
    run(main)
