"""A store's folder on this machine."""

from pathlib import Path

import numpy as np

from poscon.errors import PosconError


class LocalFolder:
    """What is read of a store on a file system.

    Args:
        path: the store's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
            return np.load(path, mmap_mode="r")
        except (EOFError, OSError, ValueError) as error:
            raise PosconError(
                f"{path}: cannot be read ({error}); the store is damaged, prepare it again"
            ) from error
