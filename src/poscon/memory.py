"""How this process's memory allocator treats what is freed."""

import ctypes
import os
import platform

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
