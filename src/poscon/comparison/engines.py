"""Where runs are done: in processes of this machine, or through Ray on many."""

import multiprocessing
import os
import socket
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

import torch

from poscon.comparison.jobs import Job
from poscon.comparison.work import Workplace, guarded, stay_with_parent
from poscon.errors import PosconError

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Does runs, several at a time.

    Attributes:
        capacity: how many.
    """

    capacity: int

    def submit(self, job: Job) -> Future[str | None]:
        """Begin a run; the future has None, or what was wrong in one line."""
        ...

    def close(self) -> None:
        """End, whatever is still running."""
        ...


class LocalEngine:
    """Processes of this machine: a run a GPU where there are any, else a run a core.

    Several runs of one thread each get more done than one run of several threads. The cores are
    shared out among them, unless ``OMP_NUM_THREADS`` says how many threads a run has.

    Args:
        place: what the runs need to know.
        processes: how many; None: as said above.
    """

    def __init__(self, place: Workplace, processes: int | None) -> None:
        self.gpus = 0 if place.device == "cpu" else torch.cuda.device_count()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.capacity = processes or self.gpus or cores or 1
        self.place = place
        context = multiprocessing.get_context("spawn")
        turns = context.Value("i", 0)
        threads = max(1, (cores or 1) // self.capacity)
        self.pool = ProcessPoolExecutor(
            self.capacity,
            mp_context=context,
            initializer=_begin,
            initargs=(os.getpid(), threads, turns, self.gpus),
        )

    def submit(self, job: Job) -> "Future[str | None]":
        return self.pool.submit(guarded, job, self.place)

    def close(self) -> None:
        for process in multiprocessing.active_children():
            process.terminate()  # what they did is kept, and is taken up again
        self.pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int, threads: int, turns: Any, gpus: int) -> None:
    """Set a process up: its end, its threads, its GPU, which is then the only one it sees."""
    stay_with_parent(parent)
    if "OMP_NUM_THREADS" not in os.environ:  # which is the user's word
        torch.set_num_threads(threads)
    if gpus:
        with turns.get_lock():
            number, turns.value = turns.value % gpus, turns.value + 1
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number]


class RayEngine:
    """Tasks of a Ray cluster, whose machines share a file system with this one.

    When a machine is lost, Ray begins its runs again elsewhere, and they go on from their
    checkpoints.

    Args:
        place: what the runs need to know.
        address: of the cluster; None: one that is started here.
    """

    def __init__(self, place: Workplace, address: str | None) -> None:
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
        gpus = 0 if place.device == "cpu" else int(there.get("GPU", 0))
        self.capacity = gpus or max(1, int(there.get("CPU", 1)))
        self.task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=3)(guarded)
        self.place = place

    def submit(self, job: Job) -> "Future[str | None]":
        future: Future[str | None] = self.task.remote(job, self.place).future()
        return future

    def close(self) -> None:
        self.ray.shutdown()


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
