"""Ten thousand small cases through ``prepare``: memory, open files, time a case, and a restart.

    python reliability/many_cases.py [--cases 10000] [--seed 0] [--folder FOLDER]

Writes cases of 16 x 16 x 4 voxels, one in ten with a label map. ``poscon prepare`` is stopped when
half of them are done, and called again. Of each call the resident memory and the open files after
the first 1,000 cases are compared with those at the end, and so is the computing time of 1,000
cases. Then ``poscon finetune`` does two steps on the store.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from memory_of import Sample, Watched, watch
from outcomes import Promise, finish

from poscon.seeds import stream

SHAPE = (16, 16, 4)
LABELLED = 10
"""One case in so many has a label map."""
BEGIN = 1000
"""Cases of each call after which memory, files and time are what they stay."""
MORE_BYTES = 32 * 2**20
MORE_FILES = 8
SLOWER = 1.25
"""Times the computing time of a case."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for the scratch files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        finish(trial(Path(name), arguments.cases, arguments.seed))


def trial(folder: Path, cases: int, seed: int, begin: int = BEGIN) -> list[Promise]:
    """Prepare many cases in two calls, and begin to train on them.

    Args:
        folder: an empty folder.
        cases: how many.
        seed: for the noise.
        begin: cases after which nothing may grow; a call does more than twice as many.
    """
    memory = Promise(f"memory grows by less than {MORE_BYTES // 2**20} MiB after {begin} cases")
    files = Promise(f"no more than {MORE_FILES} more files are open after {begin} cases")
    time = Promise(f"each of the last {begin} cases takes at most {SLOWER} times the first")
    restart = Promise("a second call keeps what the first has done")
    start = Promise("finetune begins on the store")
    scans, store = folder / "scans", folder / "store"
    write_cases(scans, cases, seed)
    command = [sys.executable, "-m", "poscon", "prepare", str(scans), str(store)]
    command += ["--processes", "1"]
    done: dict[str, float] = {}
    for call, enough in (("first", cases // 2), ("second", cases + 1)):
        watched = watch(command, every=0.2, until=lambda n=enough: count(store) >= n)  # type: ignore[misc]
        now = times(store)
        kept = {name: at for name, at in now.items() if done.get(name) == at}
        if call == "second":
            restart.note(watched.code == 0 and len(now) == cases, watched.said[-500:])
            restart.note(kept == done, f"{len(done) - len(kept)} case(s) were done again")
        ends = sorted(at for name, at in now.items() if name not in kept)
        early, late = at(watched, ends[begin]), at(watched, ends[-1])
        before = at(watched, ends[0])
        last = at(watched, ends[-begin])
        more = max(s.resident for s in watched.samples if s.at >= early.at) - early.resident
        opened = max(s.files for s in watched.samples if s.at >= early.at) - early.files
        slower = (late.cpu - last.cpu) / (early.cpu - before.cpu)
        print(
            f"{call} call: {len(ends)} cases in {watched.seconds:.0f} s; "
            f"{early.resident / 2**20:.0f} MiB after {begin} cases, at most {more / 2**20:+.1f} "
            f"MiB after that; {opened:+d} open files; "
            f"{(early.cpu - before.cpu) / begin * 1e3:.1f} ms of computing for each of the first "
            f"{begin} cases, {slower:.2f} times that for each of the last",
            flush=True,
        )
        memory.note(more <= MORE_BYTES, f"{call} call: {more / 2**20:.1f} MiB")
        files.note(opened <= MORE_FILES, f"{call} call: {opened} files")
        time.note(slower <= SLOWER, f"{call} call: {slower:.2f} times as long")
        done = now
    command = [sys.executable, "-m", "poscon", "finetune", str(store), str(folder / "run")]
    command += ["--method", "supervised", "--labelled", "3", "--iterations", "2"]
    command += [f"--set={s}" for s in ("network.width=4", "network.levels=2", "size=16", "batch=2")]
    watched = watch(command)
    cpu = max(sample.cpu for sample in watched.samples)
    print(f"finetune, two steps: {cpu:.1f} s of computing, {watched.peak / 2**20:.0f} MiB")
    start.note(watched.code == 0, watched.said[-500:])
    return [memory, files, time, restart, start]


def count(store: Path) -> int:
    """How many cases are done; not the one that is being written."""
    folder = store / "cases"
    return sum(not name.startswith(".") for name in os.listdir(folder)) if folder.is_dir() else 0


def times(store: Path) -> dict[str, float]:
    """When each case was done."""
    return {
        file.parent.name: file.stat().st_mtime for file in (store / "cases").glob("[!.]*/case.json")
    }


def at(watched: Watched, moment: float) -> Sample:
    """The first sample after a moment."""
    return next((s for s in watched.samples if s.at >= moment), watched.samples[-1])


def write_cases(folder: Path, cases: int, seed: int) -> None:
    """A data set of noise, in Decathlon layout."""
    generator = np.random.default_rng(stream(seed, "many cases"))
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    listed = []
    for number in range(cases):
        name = f"case_{number:05d}.nii"
        write(folder / "imagesTr" / name, generator.integers(-500, 500, SHAPE).astype(np.int16))
        if number % LABELLED == 0:
            write(folder / "labelsTr" / name, generator.integers(0, 2, SHAPE).astype(np.uint8))
            listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    images = [f"./imagesTr/case_{n:05d}.nii" for n in range(cases) if n % LABELLED]
    about = {
        "labels": {"0": "background", "1": "noise"},
        "modality": {"0": "CT"},
        "training": listed,
        "test": images,
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def write(path: Path, voxels: np.ndarray) -> None:
    """Write a volume with voxels of 1 mm."""
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


if __name__ == "__main__":
    main()
