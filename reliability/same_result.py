"""The same seed gives the same result again, whatever the number of worker processes.

On small phantoms every command is done once by one process, and again by one, two and four, with
one thread each. The bytes of what they wrote are compared: stores, weights, label maps, tables.
Then it is measured, by ``poscon finetune`` alone, how far weights and Dice move with what poscon
does not promise: two threads, and the instruction sets of other processors.

    python reliability/same_result.py --steps 100 --seed 0
"""

import argparse
import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import torch
import yaml
from outcomes import Promise, finish
from safetensors.numpy import load_file

from poscon.commands.align import align
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.commands.suggest import suggest
from poscon.comparison.compare import compare
from poscon.volumes.phantom import write_phantom

SETTINGS = ["network.width=4", "network.levels=2", "size=32", "batch=8", "precision=32"]
PLAN: dict[str, Any] = {
    "description": "the same result again",
    "data": {"phantom": {"subjects": 4, "seed": 3}, "prepare": {"spacing": 6.0}},
    "pretraining": ["random", "pcl"],
    "labelled": [1],
    "folds": 2,
    "size": 32,
    "precision": 32,
    "network": {"width": 2, "levels": 2},
    "pretrain": {"epochs": 1, "batch": 16},
    "finetune": {"iterations": 6, "batch": 4},
}
RESULTS = {
    "prepare": ("store/cases/*/*",),
    "align": ("store/manifest.json",),
    "pretrain": ("pretrain/*.safetensors",),
    "finetune": ("finetune/*.safetensors",),
    "predict": ("predictions/*.nii.gz", "predictions/*.json"),
    "evaluate": ("results.csv",),
    "suggest": ("suggestion/suggestion.csv",),
    "compare": ("compare/results.csv", "compare/runs/*/*.safetensors"),
}
"""What each command writes and is compared. Times, and paths of this machine, are left out."""
COMPUTERS = {
    "two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2 alone": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""Environments of a training that stand for other machines."""


def chain(folder: Path, scans: Path, processes: int, seed: int) -> None:
    """Do every command once.

    Args:
        folder: where to write.
        scans: phantoms.
        processes: how many prepare the scans and do the runs of a comparison.
        seed: seed of everything.
    """
    store = folder / "store"
    table = folder / "labelled.csv"  # the others are left for suggest to choose from
    table.parent.mkdir()
    cases = ("phantom_000", "phantom_001")
    table.write_text("case,slice\n" + "".join(f"{c},{n}\n" for c in cases for n in range(4, 16)))
    prepare(scans, store, spacing=6.0, labelled_slices=table, processes=processes)
    align(store, seed=seed)
    pretrain(store, folder / "pretrain", epochs=1, seed=seed, settings=SETTINGS)
    finetune(
        store,
        folder / "finetune",
        init=folder / "pretrain",
        method="supervised",
        iterations=6,
        seed=seed,
        settings=["size=32", "batch=4", "precision=32"],
    )
    predict(folder / "finetune", scans, folder / "predictions")
    evaluate(folder / "predictions", scans, folder / "results.csv")
    suggest(
        store,
        folder / "suggestion",
        budget=4,
        strategy="coverage",
        init=folder / "pretrain",
        seed=seed,
    )
    plan = folder / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    compare(str(plan), folder / "compare", processes=processes)


def written(folder: Path, command: str) -> dict[str, str]:
    """A hash of each file that a command wrote, by its path in the folder."""
    files = (file for pattern in RESULTS[command] for file in folder.glob(pattern))
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def train_elsewhere(folder: Path, scans: Path, steps: int, seed: int) -> None:
    """Fine-tune and predict in this environment; ``store`` of the parent folder is trained on."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    finetune(
        folder.parent / "store",
        folder / "finetune",
        method="supervised",
        iterations=steps,
        seed=seed,
        settings=SETTINGS,
    )
    predict(folder / "finetune", scans, folder / "predictions")
    evaluate(folder / "predictions", scans, folder / "results.csv")


def difference(folder: Path, reference: Path) -> tuple[float, float]:
    """The largest difference of a weight, and that of a Dice, between two trainings."""
    ours, theirs = (
        load_file(one / "finetune" / "model.safetensors") for one in (folder, reference)
    )
    weights = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
    dice = [
        np.genfromtxt(one / "results.csv", delimiter=",", names=True, dtype=None, encoding=None)
        for one in (folder, reference)
    ]
    return weights, float(np.nanmax(np.abs(dice[0]["dice"] - dice[1]["dice"])))


def repeat(folder: Path, scans: Path, seed: int, counts: list[int]) -> list[Promise]:
    """Compare what the commands write by one process with what they write again.

    Args:
        folder: where to write.
        scans: phantoms.
        seed: seed of everything.
        counts: numbers of processes to repeat with.
    """
    chain(folder / "once", scans, 1, seed)
    promises = []
    expected = {command: written(folder / "once", command) for command in RESULTS}
    for turn, processes in enumerate(counts):
        again = folder / f"again{turn}"
        chain(again, scans, processes, seed)
        promise = Promise(f"the same bytes again, {processes} process(es), of {len(RESULTS)} kinds")
        for command, files in expected.items():
            found = written(again, command)
            different = [name for name in files | found if files.get(name) != found.get(name)]
            promise.note(bool(files) and not different, f"{command}: {different or 'no file'}")
        print(promise.line(), *promise.broken, file=sys.__stderr__, flush=True)
        promises.append(promise)
    return promises


def main() -> None:
    """Try, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="of each training that is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elsewhere", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.elsewhere:
        folder, scans = given.elsewhere
        train_elsewhere(folder, scans, given.steps, given.seed)
        return
    promises = []
    with tempfile.TemporaryDirectory() as place:
        folder, scans = Path(place), Path(place) / "scans"
        write_phantom(scans, subjects=4, seed=given.seed)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            promises = repeat(folder, scans, given.seed, [1, 2, 4])
            prepare(scans, folder / "store", spacing=6.0, processes=1)
        command = [sys.executable, __file__, "--steps", f"{given.steps}", "--seed", f"{given.seed}"]
        places = {name: folder / (name or "here") for name in ("", *COMPUTERS)}
        at_work = [
            subprocess.Popen(
                [*command, "--elsewhere", there, scans],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **COMPUTERS.get(name, {})},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, there in places.items()
        ]
        codes = [process.wait() for process in at_work]
        assert not any(codes), codes
        for name in COMPUTERS:
            weights, dice = difference(places[name], places[""])
            print(
                f"{name}: after {given.steps} steps weights differ by up to {weights:.2g}, Dice by "
                f"up to {dice:.4f}"
            )
    finish(promises)


if __name__ == "__main__":
    main()
