"""Preparing the scans of a data set with another library, by a torch DataLoader."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from poscon.volumes.case import Case

PrepareOne = Callable[[Case], tuple[np.ndarray, np.ndarray | None]]
"""Image and label map of a case, (right, front, up), resampled; the image is normalised."""


class _Written(Dataset):
    """Prepares and writes a case when it is asked for."""

    def __init__(self, cases: Sequence[Case], prepare_one: PrepareOne, target: Path) -> None:
        self.cases = cases
        self.prepare_one = prepare_one
        self.target = target

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> int:
        case = self.cases[index]
        image, label = self.prepare_one(case)
        folder = self.target / "cases" / case.id
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", _stack(image, np.float16))
        if label is not None:
            np.save(folder / "label.npy", _stack(label, np.uint8))
        return index


def prepare_all(
    cases: Sequence[Case], prepare_one: PrepareOne, target: Path, processes: int
) -> None:
    """Write every case as (slices, rows, columns), float16 and uint8, to the folders of a store."""
    workers = processes if processes > 1 else 0
    dataset = _Written(cases, prepare_one, target)
    context = "fork" if workers else None
    for _ in DataLoader(dataset, num_workers=workers, multiprocessing_context=context):
        pass


def _stack(volume: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    return np.ascontiguousarray(volume.T, dtype=dtype)
