"""The process's memory: how much it may use, and what its allocator does with what is freed."""

import ctypes
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

from poscon.errors import PosconError

MACHINE = Path("/proc/meminfo")
"""Where Linux says how much memory is free."""
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


def give_back_memory() -> None:
    """Give back what the process has freed and kept, see :func:`keep_freed_memory`.

    After a large scan, so that the next one has room, wherever its parts then lie.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def usable_memory() -> int:
    """Bytes that the process may use: the machine's, its own limit, or that of its control groups.

    What the system keeps of files counts against such a limit too.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)  # as ulimit -v sets it
    of_process = [] if addresses == resource.RLIM_INFINITY else [addresses]
    return min([machine, *of_process, *(limit for _, limit in _limits())])


def free_memory() -> int | None:
    """Bytes that the process may still take before the system ends it; None: nobody says.

    What the system keeps of files counts as free, as it is given up first.
    """
    machine = _table(MACHINE)
    if "MemAvailable:" not in machine:  # not Linux
        return None
    left = [1024 * (machine["MemAvailable:"] + machine.get("SwapFree:", 0))]
    for file, limit in _limits():
        second = file.name == "memory.max"
        used = _read_limit(file.with_name("memory.current" if second else "memory.usage_in_bytes"))
        prefix = "" if second else "total_"
        known = _table(file.with_name("memory.stat"))
        files = sum(known.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
        left.append(limit - (used or 0) + files)
    return max(0, min(left))


def check_room(n_bytes: int, what: str) -> None:
    """Refuse work that takes more memory than there is: the system would end the process.

    Args:
        n_bytes: about as many bytes are taken at once.
        what: the file, for the message.

    Raises:
        PosconError: they are not free.
    """
    free = free_memory()
    if free is not None and n_bytes > free:
        give_back_memory()  # what this process keeps is free too
        free = free_memory()
    if free is not None and n_bytes > free:
        raise PosconError(
            f"{what}: takes about {n_bytes / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are "
            "free; end other programs, or use a machine with more memory"
        )


def _table(file: Path) -> dict[str, int]:
    """The lines of a file of the kernel with a name and a number; empty if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: int(number) for name, number, *_ in map(str.split, lines)}


def _limits() -> Iterator[tuple[Path, int]]:
    """File and bytes of each limit of a group that the process is in; versions 1 and 2."""
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
                yield folder / name, limit


def _read_limit(file: Path) -> int | None:
    """Bytes; None if there is none, or if it is not for this process to see."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
