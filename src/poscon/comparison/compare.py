"""``poscon compare``: methods x numbers of labels x folds x draws, by one honest protocol."""

import shutil
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from poscon.arguments import checked
from poscon.comparison.data import DATA, SCHEDULE, plan_with_data, prepare_once, scans_of
from poscon.comparison.jobs import Job, Schedule, make_schedule
from poscon.comparison.plan import Plan, row_headings
from poscon.comparison.plan_files import read_plan
from poscon.comparison.slices import SLICES
from poscon.comparison.summary import (
    Cell,
    by_subject,
    check_measured,
    collect,
    read_rows,
    result_rows,
    results_csv,
    summarise,
)
from poscon.comparison.tables import METRIC_NAMES, difference, mean_and_std, summary_md, summary_tex
from poscon.comparison.work import (
    RUNS,
    WORK,
    ComparisonFolder,
    check_machine,
    guarded,
    seconds_of,
)
from poscon.errors import PosconError
from poscon.executors import Engine, open_engine
from poscon.files import alone, check_outside, holds_nothing, read_json, sweep, write_text
from poscon.progress import console
from poscon.settings import GivenSettings
from poscon.store.manifest import write_json
from poscon.store.store import Store
from poscon.training.inference import choose_device
from poscon.training.run import RESULTS

PLAN = "plan.yaml"
SUMMARY = "summary.md"
TABLE = "table.tex"


@dataclass(frozen=True)
class Comparison:
    """The folder of a comparison, opened.

    Attributes:
        plan: what is compared.
        schedule: the runs of the plan.
        place: the folder in which they are done.
    """

    plan: Plan
    schedule: Schedule
    place: ComparisonFolder

    @property
    def title(self) -> str:
        return f"Comparison {self.place.out.resolve().name}"

    def cells(self) -> list[Cell]:
        """The results of the runs that are done."""
        return summarise(self.plan, self.schedule, self.place, collect(self.schedule, self.place))


@checked
def compare(
    plan: str,
    out: Path | str,
    *,
    data: Path | str | None = None,
    pretrain_data: Path | str | None = None,
    settings: GivenSettings = (),
    processes: int | None = None,
    device: str | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Comparison:
    """Do what a plan says: pre-train, fine-tune, predict and evaluate every combination.

    Called again after an interruption, or with a changed plan, it does what is missing. A run is
    identified by all that determines it: its settings, its cases and their pixels, its start.

    Args:
        plan: name or file of a plan.
        out: folder to write. It gets ``results.csv`` (one row per patient, class and run),
            ``summary.md``, ``table.tex``, ``plan.yaml``, ``schedule.json`` (every run), ``store``
            (and ``pretrain-store``), ``runs`` and ``logs``; ``slices`` with the labelled slices,
            if the plan counts these. :func:`poscon.report` makes a page of it.
        data: folder of the data to fine-tune and test on; None: the folder that the plan names.
        pretrain_data: folder of the data to pre-train on, in a transfer; None: the folder that
            the plan names.
        settings: changes of the plan, see :data:`poscon.settings.GivenSettings`.
        processes: runs at a time on this machine; None: one per GPU, else one per core.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``local`` or ``ray``.
        address: address of a Ray cluster; None starts one here.

    Returns:
        The comparison, with its results.

    Raises:
        PosconError: the plan, the data or the folder cannot be used. This is found out before any
            run. Or a run failed. The other runs are then done and kept.
    """
    known, out = plan_with_data(plan, settings, data, pretrain_data), Path(out).resolve()
    check_machine(engine, address, processes, device)
    _check_folder(out)
    for scans in (known.data, known.pretrain_data):
        if scans is not None and scans.folder is not None:
            check_outside(out, Path(scans.folder))
    with alone(out, "compare"):
        if not (out / DATA).is_file():
            write_json(out / DATA, {})
        prepare_once(out / "store", known.data, "data", out)
        if known.pretrain_data is not None:
            prepare_once(out / "pretrain-store", known.pretrain_data, "pretrain_data", out)
        place = _folder_of(out, known, device)
        opened = None if place.source is None else Store(place.source)
        schedule = make_schedule(known, Store(place.store), place.folder, opened)
        check_measured(known, schedule, place)
        comparison = Comparison(known, schedule, place)
        write_json(out / SCHEDULE, schedule.as_record())
        write_text(out / PLAN, yaml.safe_dump(known.model_dump(mode="json"), sort_keys=False))
        failed: dict[str, str] = {}
        try:
            _do_all(comparison, processes, engine, address, failed)
        finally:
            _write(comparison)
        for folder in (*(out / RUNS).glob("*"), out / SLICES):
            sweep(folder)
        shutil.rmtree(out / WORK, ignore_errors=True)
    if failed:
        (name, message), *more = failed.items()
        others = f" (and {len(more)} more run(s) failed)" if more else ""
        raise PosconError(
            f"run {name}: {message}{others}; what is finished is kept, see {out / 'logs'}; run the "
            "same command again to do the rest"
        )
    return comparison


def open_comparison(out: Path | str) -> Comparison:
    """Open a comparison that is there, finished or not.

    Raises:
        PosconError: the folder holds no comparison, or its data have changed.
    """
    out = Path(out).resolve()
    for name in (PLAN, SCHEDULE):
        if not (out / name).is_file():
            raise PosconError(f"{out}: no comparison (no {name}); make one with poscon compare")
    plan = read_plan(str(out / PLAN))
    try:
        schedule = Schedule.from_record(read_json(out / SCHEDULE))
    except (KeyError, TypeError, AttributeError) as error:
        raise PosconError(
            f"{out / SCHEDULE}: damaged; run poscon compare again, which writes it anew"
        ) from error
    return Comparison(plan, schedule, _folder_of(out, plan, None))


def _folder_of(out: Path, plan: Plan, device: str | None) -> ComparisonFolder:
    store = out / "store"
    source = None if plan.pretrain_data is None else out / "pretrain-store"
    folder = scans_of(plan.data, store)
    return ComparisonFolder(
        out,
        store,
        source,
        folder,
        plan.data,
        plan.transductive,
        device,
        plan.nsd_tolerance_mm,
    )


def _check_folder(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir() or not (holds_nothing(out) or (out / DATA).is_file()):
        raise PosconError(f"{out}: exists and is no comparison; choose another folder")


def _do_all(
    comparison: Comparison,
    processes: int | None,
    engine: str,
    address: str | None,
    failed: dict[str, str],
) -> None:
    """Do the missing runs. Each begins as soon as the run that it starts from is done."""
    jobs, place = comparison.schedule.jobs, comparison.place
    missing = [job for job in jobs if not place.is_done(job)]
    console.print(f"{len(jobs)} runs, {len(jobs) - len(missing)} done already", soft_wrap=True)
    if not missing:
        return
    if engine == "local":
        choose_device(place.device or "auto")
    workers = open_engine(engine, address, processes, gpus=place.device != "cpu")
    board = Board(comparison, workers.capacity)
    running: dict[Future[str | None], Job] = {}
    try:
        with board.live():
            while missing or running:
                _submit(missing, running, workers, place, failed, board)
                if not running:
                    continue
                finished, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    message = _outcome(future, job)
                    if message is not None:
                        failed[job.name] = message
                    board.finished(job, message)
                board.refresh(len(running))
    finally:
        workers.close()


def _submit(
    missing: list[Job],
    running: dict[Future[str | None], Job],
    workers: Engine,
    place: ComparisonFolder,
    failed: dict[str, str],
    board: "Board",
) -> None:
    """Begin as many runs as the workers have room for, in the order of the plan."""
    waiting = {job.name for job in [*missing, *running.values()]}
    for job in list(missing):
        if lost := sorted(job.needs & failed.keys()):
            missing.remove(job)
            failed[job.name] = f"a run that it needs failed ({lost[0]})"
            board.finished(job, failed[job.name])
        elif len(running) < workers.capacity and not job.needs & waiting:
            missing.remove(job)
            running[workers.submit(guarded, job, place)] = job


def _outcome(future: "Future[str | None]", job: Job) -> str | None:
    """Say what was wrong with a run that has ended; None if nothing was.

    Raises:
        PosconError: the process of the run was killed.
    """
    try:
        return future.result()
    except BrokenProcessPool:
        raise PosconError(
            f"run {job.name}: its process was killed, perhaps because memory ran out; what is "
            "finished is kept; run the same command again, with fewer --processes"
        ) from None
    except Exception as error:  # Ray raises its own when it gives a run up
        return f"{type(error).__name__}: {error}"


class Board:
    """The display while runs are done: a table of the results so far, and the time left."""

    def __init__(self, comparison: Comparison, capacity: int) -> None:
        self.comparison, self.capacity = comparison, capacity
        self.began = time.monotonic()
        self.n_running = 0
        self.dice: dict[str, float] = {}
        self.seconds: dict[tuple[str | None, ...], list[float]] = defaultdict(list)
        self.todo: dict[str, Job] = {}
        for job in comparison.schedule.jobs:
            if comparison.place.is_done(job):
                self._learn(job)
            else:
                self.todo[job.name] = job

    def live(self) -> Live:
        """The table, redrawn as it changes. It is silent where stderr is no terminal."""
        self.shown = Live(self.table(), console=console, transient=True, refresh_per_second=2)
        if not console.is_terminal:
            self.shown = Live(console=console, auto_refresh=False, transient=True)
        return self.shown

    def finished(self, job: Job, message: str | None) -> None:
        self.todo.pop(job.name, None)
        if message is None:
            self._learn(job)
        what = "done" if message is None else f"FAILED: {message}"
        if message is not None or not console.is_terminal:
            n = len(self.comparison.schedule.jobs)
            console.print(
                f"{n - len(self.todo)} of {n}  {job.name}  {what}  {self.left()}",
                soft_wrap=True,
                markup=False,
            )

    def refresh(self, n_running: int) -> None:
        self.n_running = n_running
        if console.is_terminal:
            self.shown.update(self.table())

    def _learn(self, job: Job) -> None:
        place = self.comparison.place
        if (seconds := seconds_of(place.run(job.name))) is not None:
            self.seconds[_kind(job)].append(seconds)
        if job.command == "finetune":
            rows = [{**r, "run": job.name} for r in read_rows(place.run(job.name) / RESULTS)]
            if subjects := by_subject(rows, "dice"):
                self.dice[job.name] = float(np.mean(list(subjects.values())))

    def left(self) -> str:
        """Estimate how long the rest will take, from the time that runs of the same kind took."""
        if not self.seconds:
            return ""
        every = [s for found in self.seconds.values() for s in found]
        total = sum(
            float(np.mean(self.seconds.get(_kind(job)) or _alike(job, self.seconds) or every))
            for job in self.todo.values()
        )
        return f"about {_duration(total / self.capacity)} left"

    def table(self) -> Group:
        plan, schedule = self.comparison.plan, self.comparison.schedule
        table = Table(title="mean Dice so far (runs done of all)", title_justify="left")
        for heading in row_headings(plan.baseline_row):
            table.add_column(heading)
        for amount in plan.amounts:
            table.add_column(f"{amount} labelled {plan.unit}", justify="right")
        for row in plan.rows:
            cells = []
            for amount in plan.amounts:
                jobs = [j for j in schedule.finetunings if (j.row, j.labelled) == (row, amount)]
                values = [self.dice[j.name] for j in jobs if j.name in self.dice]
                mean = f"{np.mean(values):.3f} " if values else ""
                cells.append(f"{mean}({len(values)}/{len(jobs)})")
            table.add_row(*row.split(" | "), *cells)
        done, n = len(schedule.jobs) - len(self.todo), len(schedule.jobs)
        spent = _duration(time.monotonic() - self.began)
        return Group(
            table, f"{done} of {n} runs done, {self.n_running} at work, {spent}, {self.left()}"
        )


def _kind(job: Job) -> tuple[str | None, ...]:
    """Runs of one kind take about equally long."""
    if job.command == "pretrain":
        return job.command, job.pretraining
    return job.command, job.finetuning


def _alike(job: Job, seconds: dict[tuple[str | None, ...], list[float]]) -> list[float]:
    """The seconds that runs of the same command took."""
    return [s for kind, found in seconds.items() if kind[0] == job.command for s in found]


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if hours < 2 else f"{seconds / 3600:.1f} h"


def _write(comparison: Comparison) -> None:
    """Write the results so far."""
    out, plan, schedule = comparison.place.out, comparison.plan, comparison.schedule
    rows = collect(schedule, comparison.place)
    if not rows:
        return
    cells = summarise(plan, schedule, comparison.place, rows)
    write_text(out / "results.csv", results_csv(result_rows(schedule, rows)))
    write_text(out / SUMMARY, summary_md(plan, schedule, cells, comparison.title))
    write_text(out / TABLE, summary_tex(plan, cells))


def comparison_tables(comparison: Comparison) -> list[object]:
    """The tables that a comparison shows in a terminal at its end.

    What all rows share, such as the only fine-tuning, stands in the title. There is room for two
    metrics.
    """
    plan, metrics, cells = comparison.plan, comparison.plan.metrics[:2], comparison.cells()
    first = metrics[0]
    shown: list[object] = [comparison.schedule.protocol]
    parts = list(zip(*(row.split(" | ") for row in plan.rows), strict=True))
    told = [k for k, names in enumerate(parts) if len(set(names)) > 1] or [0]
    shared = [names[0] for k, names in enumerate(parts) if k not in told]
    for labelled in plan.amounts:
        title = ", ".join([f"{labelled} labelled {plan.unit}", *shared])
        table = Table(title=escape(title), title_justify="left")
        for k in told:
            table.add_column(row_headings(plan.baseline_row)[k], overflow="fold")
        for metric in metrics:
            table.add_column(METRIC_NAMES[metric], justify="right")
        table.add_column("change [95 %]", min_width=8)  # `[+0.003,`
        table.add_column("p", justify="right", no_wrap=True)
        for cell in cells:
            if cell.labelled == labelled and cell.complete:
                found = cell.against[first]
                table.add_row(
                    *(escape(cell.row.split(" | ")[k]) for k in told),
                    *(mean_and_std(cell.measures[m], m) for m in metrics),
                    "baseline" if cell.baseline else difference(found, first) if found else "",
                    "" if found is None else f"{found.p:.2g}",
                    style="bold" if found is not None and found.distinguishable else "",
                )
        shown.append(table)
    return [*shown, "bold: distinguishable from the baseline; how it is tested is in the summary"]
