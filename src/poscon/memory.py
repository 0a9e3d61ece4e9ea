"""The process's memory: how much it may use, and what its allocator does with what is freed."""

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows control groups, by which containers and schedulers limit what a job may use."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of the options in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for what it allocates next.

    By itself, glibc's allocator maps every block above 32 MiB anew and gives it back, so that the
    kernel clears it page by page: at every layer of every step of a training on large slices. What
    is kept makes the process larger (docs/explanation/speed.md says how much of each). No number
    that is computed changes.

    The command line does this for its own processes; a library leaves the choice to whose process
    it is.

    Returns:
        Whether it is done: with glibc, and unless the environment tunes the allocator already.
    """
    tuned = any(name.startswith("MALLOC_") for name in os.environ)
    if tuned or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def usable_memory() -> int:
    """Bytes that the process may use: the machine's, or the least limit of its control groups.

    What the system keeps of files counts against such a limit too.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """Bytes, of each group that the process is in and limits memory; versions 1 and 2."""
    if not GROUPS_OF_PROCESS.is_file():  # not Linux
        return
    for line in GROUPS_OF_PROCESS.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, name = [GROUPS, GROUPS / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [GROUPS / "memory"], "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        # a container may see its own group as the root, whatever it is called outside
        for folder in (root / part for root in roots for part in (group, *group.parents)):
            limit = _read_limit(folder / name)
            if limit is not None:
                yield limit


def _read_limit(file: Path) -> int | None:
    """Bytes; None if there is none, or if it is not for this process to see."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
