"""A store's folder on this machine."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from poscon.errors import PosconError
from poscon.memory import usable_memory


class LocalFolder:
    """Reads a store on a file system.

    Args:
        path: the store's folder.

    Attributes:
        in_memory: whether the system can keep the arrays in memory; if not, most slices come from
            the disk, and are asked for accordingly.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.in_memory = True

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def manifest(self, name: str) -> bytes:
        """The manifest's file.

        Raises:
            PosconError: there is none, or it cannot be read.
        """
        path = self.path / name
        if not path.is_file():
            if (self.path / "cases").is_dir():
                raise PosconError(
                    f"{self.path}: an unfinished store; run the same poscon prepare again to "
                    "complete it"
                )
            raise PosconError(f"{self.path}: not a store (no {name}); make one with poscon prepare")
        try:
            return path.read_bytes()
        except OSError as error:
            raise PosconError(f"{path}: cannot be read ({error.strerror})") from error

    def array(self, name: str, _content: str) -> np.ndarray:
        """An array's file, memory-mapped.

        Raises:
            PosconError: it is absent or damaged.
        """
        path = self.path / name
        try:
            with np.errstate(over="ignore"):  # a shape that no file has is refused anyway
                array = np.load(path, mmap_mode="r")
            if not isinstance(array, np.ndarray):
                raise ValueError("it is an archive of arrays")
        except Exception as error:  # of many kinds: NumPy evaluates the header as a Python literal
            reason = " ".join(str(error).split())[:200]
            raise PosconError(
                f"{path}: cannot be read ({reason}); the store is damaged, prepare it again"
            ) from error
        if self.in_memory:
            return np.asarray(array)  # a slice of a numpy.memmap takes twice as long to make
        asking = array.view(AskingArray)
        asking.whole = True
        return asking


class AskingArray(np.memmap):
    """A memory-mapped array, (slices, ...), that asks for a slice before it is read.

    Left to itself the kernel reads a slice piece by piece, each with as much of what follows as it
    thinks fit, which a random order has no use for. Asking costs a little where the slice is in
    memory.

    Attributes:
        whole: whether this is all of the file's array, not a part of it.
    """

    whole = False

    def __getitem__(self, key: Any) -> Any:
        if self.whole and isinstance(key, int | np.integer):
            number, step = range(len(self))[key], self.strides[0]
            begin = self.offset % mmap.ALLOCATIONGRANULARITY + number * step
            will_need(self._mmap, begin, begin + step)  # type: ignore[attr-defined]
        return super().__getitem__(key)


def will_need(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Let the kernel fetch bytes of a mapped file at once, if they are not in memory."""
    first = begin - begin % mmap.PAGESIZE
    mapped.madvise(mmap.MADV_WILLNEED, first, end - first)


def fits_in_memory(n_bytes: int) -> bool:
    """Whether so many bytes of files fit into half of the memory. The rest is for other work."""
    return n_bytes <= usable_memory() / 2
