"""Batches of views for a training: poscon's own, and those of a torch DataLoader with workers."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing import active_children
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from poscon.step import SliceBatch
from poscon.training.data import UnlabelledBatches
from poscon.views import ViewMaker, ViewSettings
from versus.measuring import give_back_freed_memory

ENDLESS = 10**6
"""Steps: more than are ever measured."""


class ReadyViews(ViewMaker):
    """Hands out the views that a batch was loaded with, where poscon makes them of its slices."""

    def __init__(self, size: int) -> None:
        super().__init__(ViewSettings(), size)

    def __call__(self, images: Tensor, seed: int, *, view: int = 0) -> Tensor:
        """View number ``view``, (B, 1, size, size), of images (B, views, size, size)."""
        return images[:, view : view + 1]


class StoreBatches:
    """poscon's batches, made when they are asked for."""

    ahead = 0

    def __init__(self, batches: UnlabelledBatches) -> None:
        self.batches = (batches.batch(step) for step in count())

    def __next__(self) -> SliceBatch:
        return next(self.batches)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Nothing goes on in the background."""
        yield

    def close(self) -> None:
        self.batches.close()


class LoadedBatches:
    """Batches that workers make ahead; the workers stand still while they are not measured.

    So a measurement begins with as much made ahead as the one before it ended with. With workers
    that go on in between, or are started anew, it would begin with batches that cost nothing, or
    with none.

    Args:
        dataset: of pairs, views (views, size, size) and position.
        batch_size: slices a batch; in an order drawn anew whenever all have been seen.
        workers: processes; 0: batches are made when they are asked for.
        init_worker: called in each worker at its start.
        pin: whether batches are for a GPU.

    Attributes:
        ahead: how many batches are made ahead.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        workers: int,
        *,
        init_worker: Callable[[int], None] | None,
        pin: bool,
    ) -> None:
        loader: DataLoader = DataLoader(
            dataset,
            batch_size,
            sampler=RandomSampler(dataset, num_samples=batch_size * ENDLESS),
            num_workers=workers,
            worker_init_fn=init_worker,
            multiprocessing_context="fork" if workers else None,
            pin_memory=pin,
        )
        self.ahead = workers * (loader.prefetch_factor or 0)
        others = active_children()
        give_back_freed_memory()
        self.batches = iter(loader)
        self.workers = [process for process in active_children() if process not in others]
        self._signal(signal.SIGSTOP)

    def __next__(self) -> SliceBatch:
        return SliceBatch(*next(self.batches))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The workers work."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        self._signal(signal.SIGCONT)  # one that stands still does not end
        del self.batches

    def _signal(self, what: signal.Signals) -> None:
        for worker in self.workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, what)


Batches = StoreBatches | LoadedBatches
