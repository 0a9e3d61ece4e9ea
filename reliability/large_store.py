"""A store of 100,000 cases is opened: how long that takes, and how much memory.

    python reliability/large_store.py [--cases 100000] [--seed 0] [--folder FOLDER]

Writes a manifest of cases of 300 slices, without their arrays, which opening does not read. A
process of its own opens it. Its computing time counts: on a machine that does something else too,
the time on the clock is longer. The time that Python takes to import PyTorch is not part of it.
"""

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from outcomes import Promise, finish

from poscon.seeds import stream
from poscon.store.manifest import MANIFEST, SCHEMA_VERSION
from poscon.store.store import Store

MOST_SECONDS = 1.0
NAME = "CASE"
"""In the text of one case, the place of its name."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the scratch files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        finish(trial(Path(name), arguments.cases, arguments.seed))


def trial(folder: Path, cases: int, seed: int) -> list[Promise]:
    """Open a store.

    Args:
        folder: an empty folder.
        cases: number of cases of the store.
        seed: for the hashes.
    """
    quick = Promise(f"a store opens in less than {MOST_SECONDS:g} s")
    write_manifest(folder, cases, seed)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found, seconds, more = pool.submit(open_once, folder).result()
    size = (folder / MANIFEST).stat().st_size
    print(
        f"{found} cases, a manifest of {size / 1e6:.1f} MB: {seconds:.2f} s of computing, "
        f"{more / 2**20:.0f} MiB of memory"
    )
    quick.note(found == cases and seconds < MOST_SECONDS, f"{found} cases: {seconds:.2f} s")
    return [quick]


def open_once(path: Path) -> tuple[int, float, int]:
    """Cases, seconds of computing and bytes of opening a store."""
    before, begun = _peak(), time.process_time()
    store = Store(path)
    return len(store.cases), time.process_time() - begun, _peak() - before


def _peak() -> int:
    """The most bytes of memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_manifest(folder: Path, cases: int, seed: int) -> None:
    """The manifest of a store."""
    spacing = [1.0, 0.7421875, 0.7421875]
    intensity = {
        "modality": "CT",
        "low": -1024.0,
        "high": 1432.0,
        "mean": -386.27140808,
        "std": 471.03125,
        "padding": 0.0,
        "percentiles": [-1.35, 3.86],
        "looks_like": "CT",
    }
    case = {
        "id": NAME,
        "subject": NAME,
        "frame": None,
        "channels": [{"source": f"images/{NAME}.nii.gz", "index": None, "intensity": intensity}],
        "source_label": None,
        "frame_index": None,
        "geometry": {
            "shape": [512, 512, 300],
            "permutation": [2, 1, 0],
            "flips": [False, False, False],
            "spacing": spacing,
            "plane": "axial",
        },
        "spacing_from": "header",
        "shape": [300, 512, 512],
        "spacing": spacing,
        "class_voxels": None,
        "pixels_sha256": f"{stream(seed, 'pixels'):064x}",
        "stored_sha256": f"{stream(seed, 'stored'):064x}",
        "labelled_slices": None,
        "ranges": {},
        "label_file": "label.npy",
        "affine": [[0.7421875, 0.0, 0.0, -190.0], *[[0.0, 0.7421875, 1.0, -190.0]] * 3],
        "axis": None,
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "poscon_version": "0",
        "layout": "plain",
        "preparation": {
            "plane": "axial",
            "spacing": None,
            "source_spacing": None,
            "modality": None,
        },
        "channels": ["image"],
        "classes": [],
        "notes": [],
        "cases": [NAME],
    }
    one = json.dumps(case, indent=1)
    listed = (one.replace(NAME, f"case_{number:06d}") for number in range(cases))
    start, _, end = json.dumps(manifest, indent=1).partition(f'"{NAME}"')
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(start + ",\n".join(listed) + end)


if __name__ == "__main__":
    main()
