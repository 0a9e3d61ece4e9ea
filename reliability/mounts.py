"""File systems of memory that only this process and its children see: small, full, or read-only.

Mounting needs Linux and either root or user namespaces. Every mount goes away with the process.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _DETACH = 1, 32, 2
_PRIVATE = 0x4000 | 1 << 18  # this mount and all below it

PAGE = 4096
"""Bytes in which a file system of memory counts."""


class NoMountsError(Exception):
    """This process may not mount."""


def own_mounts() -> None:
    """Give this process mounts of its own. It must have a single thread if it is not root.

    Raises:
        NoMountsError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    if not hasattr(_LIBC, "unshare"):
        raise NoMountsError("mounts need Linux")
    if _LIBC.unshare(_NEW_MOUNTS) != 0:
        if _LIBC.unshare(_NEW_MOUNTS | _NEW_USERS) != 0:
            raise NoMountsError(f"no mounts of its own ({os.strerror(ctypes.get_errno())})")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount(None, Path("/"), None, _PRIVATE, None)


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes at a folder."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", place, "tmpfs", 0, f"size={size},mode=755")
    try:
        yield
    finally:
        _LIBC.umount2(os.fsencode(place), _DETACH)


def empty(place: Path) -> None:
    """Hide what is at a folder behind an empty one that cannot be written, to the process's end."""
    _mount("tmpfs", place, "tmpfs", _READ_ONLY, f"size={PAGE}")


def resize(place: Path, size: int) -> None:
    """Change the size of the file system at a folder, in bytes."""
    _mount("tmpfs", place, "tmpfs", _REMOUNT, f"size={size}")


def make_read_only(place: Path) -> None:
    """Let nothing be written any more to the file system at a folder."""
    _mount("tmpfs", place, "tmpfs", _REMOUNT | _READ_ONLY, None)


def used(place: Path) -> int:
    """Bytes that are in use on the file system at a folder."""
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _mount(
    source: str | None, place: Path, kind: str | None, flags: int, options: str | None
) -> None:
    told = [None if each is None else each.encode() for each in (source, kind, options)]
    if _LIBC.mount(told[0], os.fsencode(place), told[1], ctypes.c_ulong(flags), told[2]) != 0:
        raise NoMountsError(f"{place}: cannot be mounted ({os.strerror(ctypes.get_errno())})")
