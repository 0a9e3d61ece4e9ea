"""The allocator is the process's, so every case has a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from poscon.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    torch.ones(2**24)  # 64 MiB, every page of it written, and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # small holes around the aligned blocks fill up first
    before = faults()
for _ in range(10):
    after = faults()
print(kept, (after - before) * resource.getpagesize() / 2**20)
"""
TUNING = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def freed_anew(word: str, **tuned: str) -> tuple[str, float]:
    """What the function said, and MiB that the kernel cleared for ten blocks of 64 MiB."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(TUNING)}
    command = [sys.executable, "-c", FAULTS, word]
    done = subprocess.run(
        command, env={**environment, **tuned}, capture_output=True, text=True, check=True
    )
    said, mib = done.stdout.split()
    return said, float(mib)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is tuned")
def test_what_is_freed_is_used_again() -> None:
    assert freed_anew("leave")[1] > 9 * 64  # which is what this is against
    said, mib = freed_anew("keep")
    assert said == "True"
    assert mib < 64


@pytest.mark.parametrize(
    "tuned", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}]
)
def test_an_allocator_that_the_user_tunes_is_left_alone(tuned: dict[str, str]) -> None:
    said, mib = freed_anew("keep", **tuned)
    assert said == "False"
    assert mib > 9 * 64 or platform.libc_ver()[0] != "glibc"
