"""Where tasks are done: in processes of this machine, or through Ray on many."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol

import torch

from poscon.errors import PosconError
from poscon.memory import keep_freed_memory
from poscon.progress import console
from poscon.stops import Terminated

ENGINES = ("local", "ray")

Task = Callable[..., str | None]
"""A function that a new process can import; returns None, or what was wrong in one line."""


class Engine(Protocol):
    """Does tasks, several at a time.

    Attributes:
        capacity: how many.
    """

    capacity: int

    def submit(self, task: Task, *arguments: Any) -> Future[str | None]:
        """Begin a task; the future has what it returns."""
        ...

    def close(self) -> None:
        """End, whatever is still running."""
        ...


def check_engine(engine: str, address: str | None, processes: int | None) -> None:
    """Refuse options that say nothing, or that do not go together.

    Raises:
        PosconError: as said.
    """
    if engine not in ENGINES:
        raise PosconError(f"--engine {engine}: must be {' or '.join(ENGINES)}")
    if engine != "ray" and address is not None:
        raise PosconError("--address: no effect without --engine ray")
    if engine == "ray" and processes is not None:
        raise PosconError("--processes: no effect with --engine ray, which knows its cluster")
    if processes is not None and processes < 1:
        raise PosconError(f"--processes {processes}: must be at least 1")


def open_engine(engine: str, address: str | None, processes: int | None, *, gpus: bool) -> Engine:
    """The engine of checked options; ``gpus``: whether tasks use them, where there are any."""
    return RayEngine(address, gpus) if engine == "ray" else LocalEngine(processes, gpus)


def outcomes(
    engine: Engine, task: Task, arguments: Iterable[tuple[str, tuple[Any, ...]]]
) -> Iterator[str | None]:
    """Do a task for each of many arguments; what each returns, in the order in which they end.

    Args:
        engine: does them.
        task: what to do.
        arguments: pairs of a name for messages and the arguments. They are taken as there is room,
            so that there may be more than fit in a queue.

    Raises:
        PosconError: a process was killed, or a machine was lost too often.
    """
    running: dict[Future[str | None], str] = {}
    todo = iter(arguments)
    while True:
        for name, told in islice(todo, max(0, 2 * engine.capacity - len(running))):
            running[engine.submit(task, *told)] = name
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name = running.pop(future)
            try:
                yield future.result()
            except Exception as error:
                what = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise PosconError(
                    f"{name}: not done ({what}); was it short of memory? What is finished is kept: "
                    "run the same command again"
                ) from error


def usable_cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalEngine:
    """Processes of this machine: one task per GPU where there are any, else one per core.

    They are started with the first task. Where none can be started, tasks are done in this process.

    Several tasks of one thread each get more done than one of several threads. The cores are
    shared out among them, unless ``OMP_NUM_THREADS`` says how many threads a task has.

    Args:
        processes: how many; None: as said above.
        gpus: whether tasks use them.
    """

    def __init__(self, processes: int | None, gpus: bool) -> None:
        self.others = set(multiprocessing.active_children())
        self.gpus = torch.cuda.device_count() if gpus else 0
        self.capacity = processes or self.gpus or usable_cores()
        self.pool: ProcessPoolExecutor | None = None
        self.alone = False

    def submit(self, task: Task, *arguments: Any) -> "Future[str | None]":
        if self.pool is None and not self.alone:
            self._open()
        if self.pool is not None:
            return self.pool.submit(_do, task, *arguments)
        done: Future[str | None] = Future()
        try:
            done.set_result(task(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def _open(self) -> None:
        """Start the processes; where there can be none, the work is done in this one."""
        context = multiprocessing.get_context("spawn")
        threads = max(1, usable_cores() // self.capacity)
        try:
            turns = context.Value("i", 0)
            self.pool = ProcessPoolExecutor(
                self.capacity,
                mp_context=context,
                initializer=_begin,
                initargs=(os.getpid(), threads, turns, self.gpus),
            )
        except OSError as error:  # a container without shared memory
            self.alone, self.capacity = True, 1
            console.print(
                f"note: no further processes can be started here ({error}; is /dev/shm missing?); "
                "one after another is done in this process",
                soft_wrap=True,
                markup=False,
            )

    def close(self) -> None:
        for process in set(multiprocessing.active_children()) - self.others:
            process.terminate()  # what they did is kept, and is taken up again
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int, threads: int, turns: Any, gpus: int) -> None:
    """Set a process up: its end, memory, threads, and GPU, which is then the only one it sees."""
    stay_with_parent(parent)
    # a terminal sends Ctrl-C to all; the process that began them ends them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:  # which is the user's word
        torch.set_num_threads(threads)
    if gpus:
        with turns.get_lock():
            number, turns.value = turns.value % gpus, turns.value + 1
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number]


def _do(task: Task, *arguments: Any) -> str | None:
    """Do a task in a process, which ends if it was asked to."""
    try:
        return task(*arguments)
    except Terminated:
        os._exit(1)


class RayEngine:
    """Tasks of a Ray cluster, whose machines share a file system with this one.

    When a machine is lost, Ray begins its tasks again elsewhere.

    Args:
        address: address of the cluster; None: one that is started here.
        gpus: whether tasks use them.
    """

    def __init__(self, address: str | None, gpus: bool) -> None:
        try:
            import ray
        except ImportError as error:
            raise PosconError(
                "--engine ray: Ray is not installed; pip install 'poscon[cluster]'"
            ) from error
        self.ray = ray
        _check_answers(address)
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PosconError(f"--address {address}: no Ray cluster there ({error})") from error
        there = ray.cluster_resources()
        n_gpus = int(there.get("GPU", 0)) if gpus else 0
        self.capacity = n_gpus or max(1, int(there.get("CPU", 1)))
        described = ray.remote(num_cpus=1, num_gpus=1 if n_gpus else 0, max_retries=3)
        self.remote = described(_do_for_ray)

    def submit(self, task: Task, *arguments: Any) -> "Future[str | None]":
        future: Future[str | None] = self.remote.remote(task, *arguments).future()
        return future

    def close(self) -> None:
        self.ray.shutdown()


def _do_for_ray(task: Task, *arguments: Any) -> str | None:
    keep_freed_memory()
    return task(*arguments)


def stay_with_parent(parent: int) -> None:
    """End this process when the one that began it is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_answers(address: str | None) -> None:
    """Refuse an address at which nobody listens, for which Ray would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise PosconError(
            f"--address {address}: no Ray cluster there ({error.strerror or error})"
        ) from error
