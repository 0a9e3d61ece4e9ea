"""Batches of slices out of a store, each a function of the run's seed and the step's number."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Self

import numpy as np
import torch

from poscon.distributed import n_processes, rank
from poscon.errors import PosconError
from poscon.positions import POSITIONS, PositionName, neighbours
from poscon.seeds import stream
from poscon.step import SliceBatch
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.store.weak_labels import possible_classes
from poscon.training.samplers import SAMPLERS, SamplerName
from poscon.volumes.case import IGNORE

AHEAD = 2
"""Batches that are read while one is trained on."""
CHUNKS = 100
"""Of a pre-training; more only where an epoch has more steps than a chunk may have."""
HELD_SHARE = 0.5
"""Of the free memory of a GPU: what all slices may take of it."""
HELD = 256
"""Slices that are read at once when all are read."""


class SliceReader:
    """Reads slices of chosen cases of a store, cut or padded to a square canvas.

    Args:
        store: the prepared data set.
        cases: which cases.
        canvas: extent in pixels of what is read.
        context: how many neighbouring slices on each side come with every slice, as further
            channels (see :attr:`poscon.networks.settings.NetworkSettings.in_channels`).
        position: kind of position, see :data:`poscon.positions.POSITIONS`.

    Attributes:
        positions: (n,) float32, position of each slice.
        phases: (n,) float32, phase of each slice's volume; None: a volume has none.
        limits: the lowest and the highest position, of the kind or else of the slices.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[CaseRecord],
        canvas: int,
        context: int = 0,
        position: PositionName = "relative",
    ) -> None:
        self.store = store
        self.cases = list(cases)
        self.canvas = canvas
        self.context = context
        counts = [case.shape[0] for case in self.cases]
        # 32 bits, as there may be millions of slices
        self.case_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        first = np.cumsum([0, *counts[:-1]])
        self.slice_of = np.arange(sum(counts), dtype=np.int32) - np.repeat(
            first.astype(np.int32), counts
        )
        self._first = first[self.case_of]
        self._count = np.repeat(counts, counts)
        kind = POSITIONS[position]
        positions = np.concatenate([kind.of_slices(case) for case in self.cases])
        self.positions = positions.astype(np.float32)
        self.phases: np.ndarray | None = None
        if all(case.phase is not None for case in self.cases):
            phases = np.array([case.phase for case in self.cases], np.float32)
            self.phases = phases[self.case_of]
        self.limits = kind.limits or (float(positions.min()), float(positions.max()))
        names, subjects = np.unique([case.subject for case in self.cases], return_inverse=True)
        self.subjects = [str(name) for name in names]
        self.subject_of = subjects.astype(np.int32)[self.case_of]
        self._held: torch.Tensor | None = None
        self._possible: np.ndarray | None = None
        if any(case.ranges for case in self.cases):
            self._possible = np.concatenate(
                [possible_classes(case, store.class_names) for case in self.cases]
            )

    @property
    def labelled(self) -> np.ndarray:
        """(n,) int64, rising: the indices of the slices that are labelled."""
        first = np.cumsum([0, *(case.shape[0] for case in self.cases)])
        return np.concatenate(
            [
                start + case.labelled_slice_numbers
                for start, case in zip(first, self.cases, strict=False)
            ]
        )

    def __len__(self) -> int:
        return len(self.case_of)

    @property
    def held_bytes(self) -> int:
        """What :meth:`hold` takes; a slice is held once, whatever the context."""
        n_values = len(self) * self.store.channels * self.canvas**2
        return n_values * np.dtype(np.float16).itemsize

    def hold(self, device: str) -> None:
        """Read all slices now and keep them on a device; ``centred`` then finds them there."""
        shape = (len(self), self.store.channels, self.canvas, self.canvas)
        held = torch.empty(shape, dtype=torch.float16, device=device)
        for first in range(0, len(self), HELD):
            part = np.arange(first, min(first + HELD, len(self)))
            held[first : first + HELD] = torch.from_numpy(self._middles(part))
        self._held = held

    def hold_if_it_fits(self, device: str) -> None:
        """Hold all slices on a GPU with room for them; a CPU has them in its page cache anyway."""
        if device == "cuda" and self.held_bytes < HELD_SHARE * torch.cuda.mem_get_info()[0]:
            self.hold(device)

    def centred(self, indices: np.ndarray) -> SliceBatch:
        """Slices and their neighbours with the canvas on the middle of each."""
        around = self._around(indices)
        if self._held is not None:
            rows = torch.from_numpy(around).to(self._held.device, non_blocking=True)
            return self._batch(indices, self._held[rows].flatten(1, 2))
        images = self._middles(around.ravel())
        return self._batch(
            indices, torch.from_numpy(images.reshape(len(indices), -1, *images.shape[2:]))
        )

    def _around(self, indices: np.ndarray) -> np.ndarray:
        """(N, 2 * context + 1) indices of slices and their neighbours in the volume."""
        first = self._first[indices]
        return first[:, None] + neighbours(indices - first, self._count[indices], self.context)

    def _middles(self, indices: np.ndarray) -> np.ndarray:
        """(N, channels, canvas, canvas), with the canvas on the middle of each slice."""
        images = np.zeros((len(indices), self.store.channels, self.canvas, self.canvas), np.float16)
        wanted = [(self.cases[self.case_of[i]], int(self.slice_of[i])) for i in indices]
        for row, image in enumerate(self.store.images(wanted)):
            centre = (image.shape[1] // 2, image.shape[2] // 2)
            _paste(image, images[row], centre)
        return images

    def windows(
        self,
        indices: np.ndarray,
        generator: np.random.Generator,
        extent: int,
        oversample_foreground: float | None = None,
    ) -> SliceBatch:
        """Slices with their neighbours at a random place of each, with or without their labels.

        A window of ``extent`` pixels, what the network sees of an unturned view, lies at random
        inside a larger slice, or around a smaller one.

        Args:
            indices: which slices.
            generator: draws the places.
            extent: extent of the window, in pixels; the canvas is around it.
            oversample_foreground: None: the slices come without labels, which are not read. Else
                they come with labels, and this is the share of slices whose window is put on a
                foreground pixel, where there is one. The other windows lie anywhere, so that all
                background is seen.
        """
        width, channels = 2 * self.context + 1, self.store.channels
        shape = (len(indices), width, channels, self.canvas, self.canvas)
        images = np.zeros(shape, np.float16)
        labels = None
        if oversample_foreground is not None:
            labels = np.zeros((len(indices), self.canvas, self.canvas), np.uint8)
        for row, index in enumerate(indices):
            case, number = self.cases[self.case_of[index]], self.slice_of[index]
            image, target = self.store.image(case), None
            if oversample_foreground is not None:
                label = self.store.label(case)[number]
                if generator.random() < oversample_foreground:
                    # of bools it is six times as fast as of whole numbers
                    pixels = np.flatnonzero((label != 0) & (label != IGNORE))
                    if len(pixels):
                        target = divmod(int(generator.choice(pixels)), label.shape[1])
            rows, columns = (
                _window(length, extent, None if target is None else target[axis], generator)
                for axis, length in enumerate(case.shape[1:])
            )
            around = neighbours(self.slice_of[[index]], case.shape[0], self.context)[0]
            for place, neighbour in enumerate(around):
                _paste(image[neighbour], images[row, place], (rows, columns))
            if labels is not None:
                _paste(label, labels[row], (rows, columns))
        if labels is not None:
            return self._batch(
                indices, torch.from_numpy(images).flatten(1, 2), torch.from_numpy(labels)
            )
        batch = self._batch(indices, torch.from_numpy(images).flatten(1, 2))
        if self._possible is not None:
            batch.possible = torch.from_numpy(self._possible[indices])
        return batch

    def _batch(
        self, indices: np.ndarray, images: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SliceBatch:
        return SliceBatch(
            images,
            torch.from_numpy(self.positions[indices]),
            labels,
            slice_ids=torch.from_numpy(indices.astype(np.int64)),
            volumes=torch.from_numpy(self.case_of[indices].astype(np.int64)),
            phases=None if self.phases is None else torch.from_numpy(self.phases[indices]),
        )


def _window(length: int, extent: int, target: int | None, generator: np.random.Generator) -> int:
    """The middle of a window along one axis: inside the slice, or around it if that is smaller."""
    low, high = sorted((0, length - extent))
    start = int(generator.integers(low, high + 1))
    if target is not None and length > extent:
        start = min(max(target - extent // 2, low), high)
    return start + extent // 2


def _paste(source: np.ndarray, target: np.ndarray, centre: tuple[int, int]) -> None:
    """Copy what ``target`` sees of ``source`` when its middle lies on the pixel ``centre``.

    Both are (..., rows, columns).
    """
    here: list[slice] = []
    there: list[slice] = []
    for length, canvas, middle in zip(source.shape[-2:], target.shape[-2:], centre, strict=True):
        start = middle - canvas // 2
        first, last = max(start, 0), min(start + canvas, length)
        here.append(slice(first, last))
        there.append(slice(first - start, last - start))
    target[..., there[0], there[1]] = source[..., here[0], here[1]]


def without_label(reader: SliceReader, labelled: Sequence[CaseRecord]) -> np.ndarray:
    """(n,) int64, rising: the slices of a reader that are not labelled slices of some cases.

    Args:
        reader: the slices.
        labelled: cases whose labelled slices are left out; of other cases all slices are taken.
    """
    known = {case.id: case.labelled_slice_numbers for case in labelled}
    kept, first = np.ones(len(reader), bool), 0
    for case in reader.cases:
        kept[first + known.get(case.id, np.zeros(0, np.int64))] = False
        first += case.shape[0]
    return np.flatnonzero(kept)


def step_seed(seed: int, step: int) -> int:
    """Of every random choice of a step; another in every process."""
    of_step = stream(seed, "step", step)
    return stream(of_step, "process", rank()) if n_processes() > 1 else of_step


class Batches:
    """The batches of all steps of a run, each a function of the seed and the step.

    Args:
        seed: the run's seed.
        total_steps: how many steps the run has.
        chunk_steps: steps between two checkpoints.
    """

    def __init__(self, seed: int, total_steps: int, chunk_steps: int) -> None:
        self.seed = seed
        self.total_steps = total_steps
        self.chunk_steps = chunk_steps

    def of_length(self, total_steps: int, chunk_steps: int) -> Self:
        """The same batches for another number of steps."""
        other = copy(self)
        other.total_steps, other.chunk_steps = total_steps, chunk_steps
        return other

    def ends_chunk(self, done: int) -> bool:
        """Whether a chunk ends when so many steps are done. The last chunk may be shorter."""
        return done % self.chunk_steps == 0 or done == self.total_steps

    def from_step(
        self, first: int, *, pinned: bool = False
    ) -> Iterator[tuple[SliceBatch, int, float]]:
        """Go through the steps from a given one to the end.

        A thread reads the next batches while one is trained on.

        Args:
            first: number of the first step, from 0.
            pinned: whether to put batches into pinned memory. A GPU copies from there by itself;
                from other memory the copy waits until all work on the GPU is done.

        Yields:
            The batch of each step, the step's seed, and the share of all steps before it.
        """
        steps = range(first, self.total_steps)
        reader = ThreadPoolExecutor(1)

        def read(step: int) -> SliceBatch:
            batch = self.batch(step)
            return batch.pinned() if pinned else batch

        try:
            ahead = deque(reader.submit(read, step) for step in steps[:AHEAD])
            for step in steps:
                batch = ahead.popleft().result()
                if step + AHEAD in steps:
                    ahead.append(reader.submit(read, step + AHEAD))
                yield batch, step_seed(self.seed, step), step / self.total_steps
        finally:
            reader.shutdown(cancel_futures=True)

    def batch(self, step: int) -> SliceBatch:
        """The batch of one step."""
        raise NotImplementedError


class UnlabelledBatches(Batches):
    """The middle of slices that a sampler chooses; an epoch has as many as there are.

    Each of several processes has its share of every batch.

    Args:
        reader: the slices.
        batch_size: slices a step; all there are if there are fewer.
        epochs: how long.
        seed: seed of the sampler.
        chunk_steps: most steps between two checkpoints. Up to there a chunk is an epoch, or as many
            epochs as it takes for no more than :data:`CHUNKS`.
        sampler: see :mod:`poscon.training.samplers`.

    Raises:
        PosconError: a batch cannot be shared evenly.
    """

    def __init__(
        self,
        reader: SliceReader,
        batch_size: int,
        epochs: int,
        seed: int,
        chunk_steps: int,
        sampler: SamplerName = "uniform",
    ) -> None:
        self.reader = reader
        batch_size = min(batch_size, len(reader))
        if batch_size % n_processes():
            raise PosconError(
                f"setting batch = {batch_size}: cannot be shared evenly by {n_processes()} "
                "processes; set a multiple"
            )
        self.sampler = SAMPLERS[sampler](reader.positions, reader.subject_of, batch_size, seed)
        steps = self.sampler.epoch_steps
        chunk_epochs = -(-epochs // CHUNKS)
        super().__init__(seed, epochs * steps, min(chunk_steps, chunk_epochs * steps))

    def batch(self, step: int) -> SliceBatch:
        return self.reader.centred(self.sampler(step)[rank() :: n_processes()])


class LabelledBatches(Batches):
    """Labelled slices, drawn anew each step.

    Args:
        reader: the slices of labelled cases; the labelled ones among them are drawn.
        batch_size: slices a step.
        extent: extent of the views in pixels.
        iterations: number of steps, whatever the number of cases.
        oversample_foreground: see :meth:`SliceReader.windows`.
        seed: seed of the draws.
        chunk_steps: most steps between two checkpoints.
        unlabelled: reads slices that are used without labels; None: there are no such slices.
        unlabelled_slices: (n,) indices of those of them that are drawn; None: all.
        unlabelled_batch: how many of those go along with each batch; None: ``batch_size``.
    """

    def __init__(
        self,
        reader: SliceReader,
        batch_size: int,
        extent: int,
        iterations: int,
        oversample_foreground: float,
        seed: int,
        chunk_steps: int,
        unlabelled: SliceReader | None = None,
        unlabelled_batch: int | None = None,
        unlabelled_slices: np.ndarray | None = None,
    ) -> None:
        super().__init__(seed, iterations, min(chunk_steps, iterations))
        self.reader = reader
        self.labelled_slices = reader.labelled
        if unlabelled is not None and unlabelled_slices is None:
            unlabelled_slices = np.arange(len(unlabelled))
        self.unlabelled_slices = unlabelled_slices
        self.batch_size = batch_size
        self.extent = extent
        self.oversample_foreground = oversample_foreground
        self.unlabelled = unlabelled
        self.unlabelled_batch = unlabelled_batch or batch_size

    def batch(self, step: int) -> SliceBatch:
        generator = np.random.default_rng([self.seed, step])
        drawn = generator.integers(len(self.labelled_slices), size=self.batch_size)
        indices = self.labelled_slices[drawn]
        batch = self.reader.windows(indices, generator, self.extent, self.oversample_foreground)
        if self.unlabelled is not None and self.unlabelled_slices is not None:
            drawn = generator.integers(len(self.unlabelled_slices), size=self.unlabelled_batch)
            indices = self.unlabelled_slices[drawn]
            batch.unlabelled = self.unlabelled.windows(indices, generator, self.extent)
        return batch
