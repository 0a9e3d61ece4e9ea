"""Trainings of many steps, and work on many cases: does anything grow that should not?

    python reliability/long_run.py --steps 100000 --seed 0
    python reliability/long_run.py --parts predict view --cases 2000 --requests 2000 --seed 0

Every part starts one command in a process of its own on drawn scans of 20 pixels, with the smallest
network. Meanwhile the memory, the open files, the threads and the processes are counted. The first
fifth of the work is the warm-up, and does not count. `supervised` does all steps; `pretrain` and
`fixmatch`, whose step takes longer, do a fifth of them. `compare` calls the same comparison again
and again in one process, each time with a part of the work undone.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from outcomes import Promise, finish
from watching import Sample, folder_bytes, growth, rise, sample, slowdown, watch

from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.comparison.compare import compare
from poscon.progress import silent
from poscon.training.run import MetricsFile
from poscon.volumes.phantom import draw_phantom, write_phantom

PARTS = ("supervised", "pretrain", "fixmatch", "compare", "predict", "view")
TINY = ("network.width=2", "network.levels=1", "size=16", "batch=2", "precision=32")
SUBJECTS = 3
PIXELS_MM = 12.0
"""Size of the stored pixels: about 20 of them are a slice."""
GROWS_MB = 5.0
"""Most that the memory may grow after the warm-up, however much work there is."""
KB_PER_CASE = 5.0
"""Most that `predict` may keep of each case after the warm-up: its entry in predictions.json."""
KB_PER_ROW = 2.0
"""Most that the logs of a training may take for each row of metrics.csv."""
REPORT_MB = 1.0
SLOWER = 2.0
"""Most that the last quarter of the work may cost, in that of the second. Others disturb it."""
AT_ONCE = 4
"""Requests that the viewer gets at the same time."""


class Promises:
    """What must hold in every part."""

    def __init__(self) -> None:
        self.memory = Promise(f"memory grows by less than {GROWS_MB:g} MB after the warm-up")
        self.entries = Promise(f"predict keeps less than {KB_PER_CASE:g} KB for each case")
        self.handles = Promise("no more open files, threads or processes at the end")
        self.speed = Promise(f"the last quarter costs less than {SLOWER:g} times the second")
        self.ended = Promise("it ends well, and no process is left")
        self.logs = Promise(f"a row of the logs takes less than {KB_PER_ROW:g} KB")
        self.checkpoint = Promise("one checkpoint is kept, and nothing half-written")
        self.report = Promise(f"the report takes less than {REPORT_MB:g} MB, and is complete")
        self.folder = Promise("a comparison that is resumed takes no more room on the disk")

    def all(self) -> list[Promise]:
        """Those that were tried."""
        return [one for one in vars(self).values() if one.tried]

    def note(self, name: str, samples: list[Sample]) -> None:
        """Judge and print how the numbers of a part went."""
        last = samples[-1]
        mb = rise(samples, "memory")
        if name == "predict":
            kb = growth(samples, "memory") * 1000
            self.entries.note(kb < KB_PER_CASE, f"predict: {kb:+.1f} KB a case")
        else:
            self.memory.note(mb < GROWS_MB, f"{name}: {mb:+.1f} MB")
        rises = {what: rise(samples, what) for what in ("files", "threads", "processes")}
        for what, by in rises.items():
            self.handles.note(by < 1, f"{name}: {by:+.1f} {what}")
        ratio = slowdown(samples)
        self.speed.note(ratio < SLOWER, f"{name}: {ratio:.2f} times")
        print(
            f"{name}: {last.done:,} done, {last.seconds:.0f} s of processor; memory "
            f"{last.memory:.0f} MB, {mb:+.2f} MB after the warm-up; {last.files} files, "
            f"{last.threads} threads, {last.processes} process(es); last quarter {ratio:.2f} times "
            "the second",
            flush=True,
        )


def poscon(*arguments: object) -> list[object]:
    """The command line of poscon."""
    return [sys.executable, "-m", "poscon", *arguments]


def write_scans(folder: Path, cases: int, seed: int) -> None:
    """Write many small scans, each with noise of its own."""
    drawn = draw_phantom(seed, SUBJECTS, "mr")
    image = drawn.image[24:56, 24:56, 8:16]
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(cases):
        noisy = image + generator.integers(-20, 21, image.shape)
        scan = nib.Nifti1Image(noisy.astype(np.int16), drawn.affine)
        nib.save(scan, folder / f"case_{number:05d}.nii.gz")


def steps_done(run: Path) -> int:
    """The step of the last row of metrics.csv."""
    rows = MetricsFile(run / "metrics.csv").rows()
    return int(rows[-1]["step"]) if rows else 0


def train(name: str, steps: int, slices: int, place: Path, seed: int, promises: Promises) -> None:
    """Train for so many steps, then make the report.

    Args:
        name: part of the trial.
        steps: how many.
        slices: how many there are in the store: an epoch of ``pretrain``.
        place: folder with the store.
        seed: seed of the training.
        promises: what must hold.
    """
    run = place / name
    settings = [part for one in TINY for part in ("--set", one)]
    if name == "pretrain":
        how: list[object] = ["pretrain", "--epochs", -(-steps // (slices // 2))]
    else:
        how = ["finetune", "--method", name, "--labelled", 2, "--iterations", steps]
        how += ["--logger", "mlflow" if name == "fixmatch" else "tensorboard"]
    command, *options = how
    checkpoints: list[int] = []
    found = watch(
        poscon(command, place / "store", run, "--seed", seed, *options, *settings),
        lambda: steps_done(run),
        log=place / f"{name}.log",
        beside=lambda _: checkpoints.append(len(list((run / "checkpoints").glob("*.ckpt")))),
    )
    promises.ended.note(found.code == 0 and not found.left, f"{name}: {found.code} {found.errors}")
    if found.code != 0:
        return
    promises.note(name, found.samples)
    rows = len(MetricsFile(run / "metrics.csv").rows())
    logs = [run / part for part in ("metrics.csv", "tensorboard", "mlruns")]
    kb = {log.name: _bytes(log) / 1000 for log in logs if log.exists()}
    kb["output"] = _bytes(place / f"{name}.log") / 1000
    for log, size in kb.items():
        promises.logs.note(size / rows < KB_PER_ROW, f"{name}: {log} {size / rows:.2f} KB a row")
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    promises.checkpoint.note(kept == ["last.ckpt"] and max(checkpoints) <= 1, f"{name}: {kept}")
    report = watch(poscon("report", run), lambda: 0, log=place / "report.log")
    page = run / "report.html"
    complete = report.code == 0 and page.read_text().rstrip().endswith("</html>")
    mb = page.stat().st_size / 1e6 if page.is_file() else 0.0
    promises.report.note(complete and mb < REPORT_MB, f"{name}: {mb:.2f} MB {report.errors}")
    print(
        f"{name}: {rows:,} rows; "
        + ", ".join(f"{log} {size:.0f} KB ({size / rows:.2f} a row)" for log, size in kb.items())
        + f"; all of the run {folder_bytes(run) / 1e6:.2f} MB; report {mb:.2f} MB",
        flush=True,
    )


def _bytes(path: Path) -> int:
    return folder_bytes(path) if path.is_dir() else path.stat().st_size


def resume(times: int, place: Path, seed: int, promises: Promises) -> None:
    """Do a comparison, then undo a part of it and resume it, again and again, in this process."""
    plan = place / "plan.yaml"
    content = {
        "description": "a comparison of many rows",
        "data": {"phantom": {"subjects": 6, "seed": seed}, "prepare": {"spacing": PIXELS_MM}},
        "pretraining": ["random", "pcl"],
        "labelled": [1, 2],
        "folds": 2,
        "size": 16,
        "precision": 32,
        "network": {"width": 2, "levels": 1},
        "pretrain": {"epochs": 1, "batch": 16},
        "finetune": {"iterations": 10, "batch": 2, "checkpoint_every": 5},
    }
    plan.write_text(yaml.safe_dump(content))
    samples, sizes = [], []
    for number in range(times + 1):
        with silent():
            compare(str(plan), place / "compared", processes=1)
        now = sample(os.getpid(), number)
        assert now is not None
        samples.append(now)
        sizes.append(folder_bytes(place / "compared"))
        for results in sorted((place / "compared" / "runs").glob("finetune-*/results.csv"))[:2]:
            results.unlink()
    last, rises = samples[-1], [rise(samples, n) for n in ("files", "threads", "processes")]
    for what, by in zip(("files", "threads", "processes"), rises, strict=True):
        promises.handles.note(by < 1, f"compare: {by:+.1f} {what}")
    mb = rise(samples, "memory")
    promises.memory.note(mb < GROWS_MB, f"compare: {mb:+.1f} MB in {times} resumptions")
    promises.folder.note(max(sizes) <= 1.01 * sizes[0], f"compare: {sizes[0]} -> {max(sizes)}")
    print(
        f"compare: resumed {times} times; memory {last.memory:.0f} MB, {mb:+.2f} MB after the "
        f"warm-up; {last.files} files, {last.threads} threads, {last.processes} process(es); "
        f"folder {sizes[0] / 1e6:.2f} MB, then {sizes[-1] / 1e6:.2f} MB",
        flush=True,
    )


def predict(cases: int, place: Path, promises: Promises) -> None:
    """Segment many scans with one command."""
    out = place / "predictions"
    found = watch(
        poscon("predict", place / "model", place / "scans", out),
        lambda: len(list(out.glob("*.nii.gz"))),
        log=place / "predict.log",
    )
    well = found.code == 0 and not found.left and len(list(out.glob("*.nii.gz"))) == cases
    promises.ended.note(well, f"predict: {found.code} {found.errors}")
    promises.note("predict", found.samples)


def view(requests: int, place: Path, seed: int, promises: Promises) -> None:
    """Ask the viewer for the page and for scans, several times at once, then end it."""
    log = place / "view.log"
    generator = np.random.default_rng(seed)
    answered = 0

    def ask(name: str) -> bool:
        with urllib.request.urlopen(log.read_text().split()[3] + name, timeout=600) as answer:
            return bool(answer.read())

    def ask_for_some(process: subprocess.Popen[bytes]) -> None:
        nonlocal answered
        if "Ctrl-C" not in log.read_text():
            return
        numbers = generator.integers(100, size=50)
        names = ["" if number < 20 else f"case-{number}-channel-0.nii" for number in numbers]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answered += sum(pool.map(ask, names))
        if answered >= requests:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=600)

    found = watch(
        poscon("view", place / "scans", "--no-browser"),
        lambda: answered,
        log=log,
        every=0.05,
        beside=ask_for_some,
    )
    well = found.code == 0 and not found.left and answered >= requests
    promises.ended.note(well, f"view: {found.code} {found.errors}")
    promises.note("view", found.samples)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=100_000, help="of the supervised training")
    parser.add_argument("--resumes", type=int, default=20, help="of a comparison")
    parser.add_argument("--cases", type=int, default=2000, help="that one command segments")
    parser.add_argument("--requests", type=int, default=2000, help="to the viewer")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    promises = Promises()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_phantom(place / "drawn", subjects=SUBJECTS, seed=chosen.seed)
        with silent():
            store = prepare(place / "drawn", place / "store", spacing=PIXELS_MM, processes=1)
        slices = sum(case.shape[0] for case in store.cases)
        for name in chosen.parts:
            if name in ("predict", "view") and not (place / "scans").exists():
                write_scans(place / "scans", max(chosen.cases, 100), chosen.seed)
            if name == "view":
                view(chosen.requests, place, chosen.seed, promises)
            elif name == "predict":
                with silent():
                    finetune(place / "store", place / "model", iterations=20, settings=TINY)
                predict(chosen.cases, place, promises)
            elif name == "compare":
                resume(chosen.resumes, place, chosen.seed, promises)
            else:
                steps = chosen.steps if name == "supervised" else chosen.steps // 5
                train(name, steps, slices, place, chosen.seed, promises)
    finish(promises.all())


if __name__ == "__main__":
    main()
