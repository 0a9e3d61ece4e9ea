"""A store in an object store, read through fsspec; what was read is kept on a disk of this machine.

An array is fetched slice by slice, a range of bytes each, as training reads it. Why so:
docs/decisions/0008-remote-stores.md.
"""

import hashlib
import io
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from poscon.errors import PosconError
from poscon.files import complete
from poscon.progress import console
from poscon.store.local import will_need

CACHE_VARIABLE = "POSCON_CACHE"
LEAST_FREE = 0.05  # of the disk of the cache: what is read when there is less is not kept
_HEADER = 128  # bytes of an npy file before its array, if it has three or four axes
_MARK = np.dtype("<u8")


def is_url(path: Path | str) -> bool:
    """Whether a store is named by a URL that fsspec may know, such as ``s3://bucket/store``."""
    return "://" in str(path)


def cache_folder() -> Path:
    """The folder in which slices of remote stores are kept. It may be emptied at any time.

    ``$POSCON_CACHE``, else ``$XDG_CACHE_HOME/poscon``, else ``~/.cache/poscon``.
    """
    if told := os.environ.get(CACHE_VARIABLE):
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "poscon"


class RemoteFolder:
    """Reads a store through fsspec.

    Args:
        url: URL of the store's folder.

    Raises:
        PosconError: fsspec, or its driver for this kind of URL, is not installed; or there is no
            place to keep what is read.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._system()
        kept = cache_folder()
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PosconError(
                f"{kept}: cannot keep there what is read of {url} ({error.strerror}); name another "
                f"folder with {CACHE_VARIABLE}"
            ) from error

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def manifest(self, name: str) -> bytes:
        """The manifest's file.

        Raises:
            PosconError: there is none, or it cannot be reached.
        """
        system, path = self._system()
        with _one_line(self.path):
            try:
                return cast(bytes, system.cat_file(f"{path}/{name}"))
            except FileNotFoundError as error:
                raise PosconError(
                    f"{self.path}: not a store (no {name}); make one with poscon prepare in a "
                    "folder of this machine, and copy it there"
                ) from error

    def array(self, name: str, content: str) -> np.ndarray:
        """An array's file, fetched as it is read.

        Args:
            name: name of the file in the store.
            content: a hash of what it should hold, by which it is kept: a store that is replaced by
                another, or one that is at two places, is not mistaken. That it does hold that is
                not looked at, so a store must not be read while it is copied there.

        Returns:
            A :class:`RemoteArray`, which can be used as NumPy's.

        Raises:
            PosconError: it is absent, damaged, or cannot be reached.
        """
        key = hashlib.sha256(f"{content}/{Path(name).name}/marks".encode()).hexdigest()
        return cast(np.ndarray, RemoteArray(self, name, cache_folder() / key[:2] / key))

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes of a file from the first to before the last of each range; all asked for at once.

        Raises:
            PosconError: the file is absent or ends before, or cannot be reached.
        """
        system, path = self._system()
        starts, ends = zip(*ranges, strict=True)
        url = f"{self.path}/{name}"
        with _one_line(url):
            try:
                found = system.cat_ranges(
                    [f"{path}/{name}"] * len(ranges), list(starts), list(ends), on_error="return"
                )
                for part in found:
                    if isinstance(part, BaseException):
                        raise part
            except FileNotFoundError as error:
                raise PosconError(f"{url}: is absent; copy the store there again") from error
        if [len(part) for part in found] != [end - start for start, end in ranges]:
            raise PosconError(f"{url}: is cut off; copy the store there again")
        return [bytes(part) for part in found]

    def _system(self) -> tuple[Any, str]:
        """The file system and the store's path in it; its own for a process that was forked."""
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise PosconError(
                f"{self.path}: fsspec is not installed; pip install 'poscon[remote]'"
            ) from error
        try:
            return cast(tuple[Any, str], url_to_fs(self.path))
        except (ImportError, ValueError) as error:
            raise PosconError(
                f"{self.path}: fsspec cannot read this ({error}); for s3:// pip install "
                "'poscon[remote]', for others what fsspec needs"
            ) from error


class RemoteArray(NDArrayOperatorsMixin):
    """An array of a remote store, (slices, ...).

    ``array[i]`` fetches that slice, unless it was kept; any other use fetches what is missing of
    the whole. Kept is a sparse copy of the file, followed by a mark for each slice: 0 where it is
    not there, else made of its checksum. The mark of the header and the size end the copy. What
    does not fit its mark is fetched again. A slice is written, and is on the disk, before its mark
    is, so processes may share a copy and may be killed; it must lie on a disk of this machine.

    Args:
        folder: the store's folder.
        name: name of the array's file there.
        kept: the copy, which may not exist yet.

    Attributes:
        shape, dtype: shape and dtype of the array.
    """

    def __init__(self, folder: RemoteFolder, name: str, kept: Path) -> None:
        self.folder, self.name, self.kept = folder, name, kept
        if not _header_is_whole(kept):
            self._begin()
        mapped = np.memmap(kept, np.uint8, "r")
        self.mapped, content = mapped._mmap, np.asarray(mapped)  # type: ignore[attr-defined]
        self.shape, self.dtype, self.begin = self._read_header(content[:_HEADER].tobytes())
        self.step = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.end = self.begin + self.shape[0] * self.step
        self.local = content[self.begin : self.end].view(self.dtype).reshape(self.shape)
        self.marks = content[self.end : -2 * _MARK.itemsize].view(_MARK)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer):
            number = range(len(self))[key]
            if self._is_kept(number):
                return self.local[number]
            return self._fetch([(number, number + 1)])[0][0]
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        runs = _runs(np.array([i for i in range(len(self)) if not self._is_kept(i)], np.int64))
        whole = self.local
        if runs:
            whole = whole.copy()
            for (first, last), slices in zip(runs, self._fetch(runs), strict=True):
                whole[first:last] = slices
        return np.array(whole, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(i) if isinstance(i, RemoteArray) else i for i in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of a protocol that NumPy looks for
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def _is_kept(self, number: int) -> bool:
        """Whether the copy has a slice as it was written there."""
        if not self.marks[number]:
            return False
        will_need(self.mapped, self._offset(number), self._offset(number + 1))
        if self.marks[number] == _mark(self.local[number]):
            return True
        _say_once(f"{self.kept}: is damaged; what is damaged of it is fetched again")
        return False

    def _fetch(self, runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Slices from the first to before the last of each run."""
        ranges = [(self._offset(first), self._offset(last)) for first, last in runs]
        contents = self.folder.ranges(self.name, ranges)
        self._keep(runs, contents)
        return [
            np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:]) for content in contents
        ]

    def _keep(self, runs: Sequence[tuple[int, int]], contents: Sequence[bytes]) -> None:
        """Write slices to the copy if there is room, and if nobody has emptied the cache."""
        try:
            disk = shutil.disk_usage(self.kept.parent)
            if disk.free < LEAST_FREE * disk.total:
                _say_once(f"{cache_folder()}: its disk is nearly full, no more slices are kept")
                return
            with self.kept.open("r+b") as file:
                for (first, _), content in zip(runs, contents, strict=True):
                    file.seek(self._offset(first))
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
                for (first, _), content in zip(runs, contents, strict=True):
                    slices = np.frombuffer(content, np.uint8).reshape(-1, self.step)
                    file.seek(self.end + first * _MARK.itemsize)
                    file.write(np.array([_mark(each) for each in slices], _MARK).tobytes())
        except OSError as error:
            _say_once(f"{self.kept}: slices cannot be kept ({error.strerror})")

    def _offset(self, number: int) -> int:
        return self.begin + number * self.step

    def _begin(self) -> None:
        """Begin an empty copy."""
        (header,) = self.folder.ranges(self.name, [(0, _HEADER)])
        shape, dtype, begin = self._read_header(header)
        with complete(self.kept) as part, part.open("wb") as file:
            file.write(header)
            file.truncate(begin + int(np.prod(shape)) * dtype.itemsize + shape[0] * _MARK.itemsize)
            file.write(_ending(header, file.seek(0, os.SEEK_END)))
            os.fsync(file.fileno())

    def _read_header(self, header: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
        """Shape, type of the elements, and where the array begins."""
        stream = io.BytesIO(header)
        try:
            np.lib.format.read_magic(stream)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
            if by_columns or len(shape) not in (3, 4) or dtype.hasobject:
                raise ValueError(f"{dtype} of shape {shape}, {by_columns = }")
        except Exception as error:  # of many kinds: NumPy evaluates the header as a literal
            reason = " ".join(str(error).split())[:200]
            raise PosconError(
                f"{self.folder.path}/{self.name}: no array of a store ({reason}); copy the store "
                "there again"
            ) from error
        return shape, dtype, stream.tell()


def _mark(content: Any) -> int:
    """What says that bytes are there as they should be; never 0."""
    return zlib.crc32(content) | 1 << 32


def _header_is_whole(kept: Path) -> bool:
    """Whether a copy has the size and the header that it began with."""
    try:
        with kept.open("rb") as file:
            header = file.read(_HEADER)
            size = file.seek(-2 * _MARK.itemsize, os.SEEK_END)
            return file.read() == _ending(header, size)
    except OSError:  # there is none, or it is shorter than its ending
        return False


def _ending(header: bytes, size: int) -> bytes:
    """What ends a copy: the mark of its header, and the bytes before."""
    return np.array([_mark(header), size], _MARK).tobytes()


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Ascending numbers as runs, from the first to before the last."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


@cache
def _say_once(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)


@contextmanager
def _one_line(url: str) -> Iterator[None]:
    """Every driver of fsspec has errors of its own; make one line of them."""
    try:
        yield
    except PosconError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PosconError(
            f"{url}: cannot be read ({reason}); is it reachable, and are you allowed to read it?"
        ) from error
