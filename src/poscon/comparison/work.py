"""Do one run of a plan: train, predict, evaluate. An interrupted run goes on where it was."""

import contextlib
import fcntl
import resource
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.predict import predict
from poscon.commands.pretrain import pretrain
from poscon.comparison.jobs import Job, SliceChoice
from poscon.comparison.plan_parts import DataSettings
from poscon.comparison.slices import SLICES, choose, read_chosen, slice_table
from poscon.errors import PosconError
from poscon.executors import check_engine
from poscon.files import read_json, write_text
from poscon.leakage import describe, read_seen
from poscon.metrics import NSD_TOLERANCE_MM
from poscon.store.manifest import write_json
from poscon.store.store import Store
from poscon.training.run import MODEL, PREDICTIONS, RESULTS, RunFolder, part_file

RUNS = "runs"
LOGS = "logs"
WORK = ".work"
JOB = "job.json"
COST = "cost.json"


def check_machine(
    engine: str, address: str | None, processes: int | None, device: str | None
) -> None:
    """Refuse what no run could be done with, before the first. The arguments are `compare`'s.

    Raises:
        PosconError: the engine is unknown or has no such option, or the device is unknown.
    """
    check_engine(engine, address, processes)
    if device not in (None, "auto", "cpu", "cuda"):
        raise PosconError(f"--device {device}: is unknown; use auto, cpu or cuda")


@dataclass(frozen=True)
class ComparisonFolder:
    """The folder in which runs are done, and what they need to know.

    Attributes:
        out: folder of the comparison.
        store: the data to fine-tune on, prepared.
        source: the data to pre-train on, prepared; None: no transfer.
        folder: folder of the scans to predict, with the references.
        data: settings by which ``folder`` is read.
        transductive: whether pre-training may have seen the test scans.
        device: ``auto``, ``cpu`` or ``cuda``.
        nsd_tolerance_mm: distance in mm up to which surfaces agree.
    """

    out: Path
    store: Path
    source: Path | None
    folder: Path
    data: DataSettings
    transductive: bool = False
    device: str | None = None
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.out / RUNS / name

    def is_done(self, job: Job) -> bool:
        """Whether a run is finished."""
        folder = self.run(job.name)
        return (folder / (JOB if job.command == "pretrain" else RESULTS)).is_file()


def do(job: Job, place: ComparisonFolder) -> None:
    """Do a run, or what is missing of it. Its output goes to ``logs/JOB.log``.

    One process at a time works on a run. A second one waits, and finds the run done.

    Raises:
        PosconError: the training, a scan or the place cannot be used.
    """
    folder = place.run(job.name)
    with _alone(place, job.name), _logged(place.out / LOGS / f"{job.name}.log"):
        if place.is_done(job):
            return
        pretrains = job.command == "pretrain"
        resume = RunFolder(folder).checkpoint is not None
        trained = (part_file(folder, "encoder") if pretrains else folder / MODEL).is_file()
        if folder.is_dir() and not resume and not trained:
            shutil.rmtree(folder)  # it was killed before its first checkpoint
        costs = _Costs(folder, place.device)
        if not trained or (pretrains and resume):  # a pre-training ends with its picture
            with costs("train"):
                (_pretrain if pretrains else _finetune)(job, place, folder, resume)
        write_json(folder / JOB, asdict(job))
        if pretrains:
            return
        with costs("predict and evaluate"):
            _measure(job, place, folder)


def _pretrain(job: Job, place: ComparisonFolder, folder: Path, resume: bool) -> None:
    store = place.source or place.store
    if resume:
        pretrain(store, folder, device=place.device, resume=True)
        return
    pretrain(
        store,
        folder,
        cases=job.cases["pretrain"],
        recipe={"pretrain": job.settings},
        device=place.device,
    )


def _finetune(job: Job, place: ComparisonFolder, folder: Path, resume: bool) -> None:
    if resume:
        finetune(place.store, folder, device=place.device, resume=True)
        return
    cases, unlabelled, slices = job.cases["labelled"], job.cases.get("unlabelled"), None
    if job.slices is not None:
        slices = _chosen_slices(job, job.slices, place)
        # what is among the cases and not in the table is used without labels
        cases, unlabelled = (*cases, *(unlabelled or ())), None
    finetune(
        place.store,
        folder,
        init=None if job.init is None else place.run(job.init),
        labelled_slices=slices,
        cases=cases,
        unlabelled=unlabelled,
        validation=job.cases.get("validation"),
        recipe={"finetune": job.settings},
        device=place.device,
    )


def _chosen_slices(job: Job, how: SliceChoice, place: ComparisonFolder) -> Path:
    """The table of the labelled slices. The first run that needs it writes it."""
    path = place.out / SLICES / how.table
    with _alone(place, how.table):
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            store = Store(place.store)
            of_id = {case.id: case for case in store.cases}
            cases = [of_id[name] for name in job.cases["labelled"]]
            before = [] if how.before is None else read_chosen(path.parent / how.before, cases)
            chosen = choose(
                store,
                cases,
                how.strategy,
                int(job.labelled or 0),
                job.settings["seed"],
                None if how.init is None else place.run(how.init),
                place.device,
                model=None if how.model is None else place.run(how.model),
                before=before,
            )
            write_text(path, slice_table(chosen))
    return path


def _measure(job: Job, place: ComparisonFolder, folder: Path) -> None:
    """Segment the test cases and compare them with the references. The results come last."""
    # the store's layout: a folder of scans and label maps could be read in more than one way
    layout = Store(place.store).manifest.layout
    stated = place.data.prepare.get("source_spacing")  # the files' headers are wrong
    spacing = None if stated is None else tuple(stated)
    predict(
        folder,
        place.folder,
        folder / PREDICTIONS,
        layout=layout,
        channel=place.data.channel,
        cases=job.cases["test"],
        source_spacing=spacing,
        device=place.device,
        resume=True,
    )
    allowed = {"validation", *(["pretrain"] if place.transductive else [])}
    seen = {name: r for name, r in read_seen(folder / PREDICTIONS).items() if set(r) - allowed}
    if seen:  # the scans have changed since the guard looked
        raise PosconError(f"{place.folder}: {describe(seen)}, but is to be tested on")
    measured = folder / f"measured-{RESULTS}"  # it may be incomplete
    measured.unlink(missing_ok=True)
    evaluate(
        folder / PREDICTIONS,
        place.folder,
        measured,
        layout=layout,
        channel=place.data.channel,
        labels=place.data.labels,
        ignore_label=place.data.ignore_label,
        source_spacing=spacing,
        nsd_tolerance=place.nsd_tolerance_mm,
    )
    measured.replace(folder / RESULTS)


@contextlib.contextmanager
def _alone(place: ComparisonFolder, name: str) -> Iterator[None]:
    """Hold the lock of a run or a table. The system releases it whenever the process ends."""
    path = place.out / WORK / f"lock-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send what is printed to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


class _Costs:
    """Seconds and memory of the stages of a run, in its ``cost.json``."""

    def __init__(self, folder: Path, device: str | None) -> None:
        self.path = folder / COST
        self.gpu = torch.cuda.is_available() and device != "cpu"

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        _forget_peak()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        yield
        found: dict[str, Any] = {
            "seconds": round(time.perf_counter() - started, 2),
            "memory_mib": _peak_mib(),
        }
        if self.gpu:
            found["gpu_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
        known = read_json(self.path) if self.path.is_file() else {}
        write_json(self.path, {**known, stage: found})


def _forget_peak() -> None:
    """Reset the system's count of this process's peak memory, where it can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> int:
    """Peak memory of this process since the count began, in MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def seconds_of(folder: Path) -> float | None:
    """The seconds that a run took; None if they are not known."""
    path = folder / COST
    if not path.is_file():
        return None
    return float(sum(stage["seconds"] for stage in read_json(path).values()))


def guarded(job: Job, place: ComparisonFolder) -> str | None:
    """Call :func:`do`. An error is returned as a text, which crosses any process border."""
    try:
        do(job, place)
    except PosconError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or place.out}: cannot be used ({error.strerror})"
    except Exception as error:  # a defect, or no GPU memory; the other runs go on
        log = place.out / LOGS / f"{job.name}.log"
        with (
            contextlib.suppress(OSError),
            log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            traceback.print_exc(file=file)
        return f"{type(error).__name__}: {' '.join(str(error).split())} (see {log})"
    return None
