"""The allocator is the process's, so every case of it has a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from poscon import memory
from poscon.errors import PosconError

FAULTS = """
import resource, torch
from poscon.memory import keep_freed_memory
def faults():
    torch.ones(2**24)  # 64 MiB, every page of it written, and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def cleared():
    for _ in range(20):  # small holes around the aligned blocks fill up first
        before = faults()
    for _ in range(10):
        after = faults()
    return (after - before) * resource.getpagesize() / 2**20
print(cleared(), keep_freed_memory(), cleared())
"""
TUNING = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def freed_anew(**tuned: str) -> tuple[float, str, float]:
    """MiB that the kernel cleared for ten blocks of 64 MiB; what the function said; MiB then."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(TUNING)}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env={**environment, **tuned}, capture_output=True, text=True, check=True
    )
    before, said, after = done.stdout.split()
    return float(before), said, float(after)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is tuned")
def test_what_is_freed_is_used_again() -> None:
    before, said, after = freed_anew()
    assert before > 9 * 64  # which is what this is against
    assert said == "True"
    assert after < 64


@pytest.mark.parametrize(
    "tuned",
    [
        {"MALLOC_ARENA_MAX": "2"},
        pytest.param({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, marks=pytest.mark.slow),
    ],
)
def test_an_allocator_that_the_user_tunes_is_left_alone(tuned: dict[str, str]) -> None:
    _, said, after = freed_anew(**tuned)
    assert said == "False"
    assert after > 9 * 64 or platform.libc_ver()[0] != "glibc"


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_tunes_an_allocator(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "glibc.malloc.hugetlb=0")
    assert not memory.keep_freed_memory()


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limited_to(
    monkeypatch: pytest.MonkeyPatch, folder: Path, membership: str, **limits: str
) -> int:
    """Usable memory of a process in these groups, whose files have these contents."""
    (folder / "membership").write_text(membership)
    for name, limit in limits.items():
        file = folder / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    monkeypatch.setattr(memory, "GROUPS_OF_PROCESS", folder / "membership")
    monkeypatch.setattr(memory, "GROUPS", folder / "groups")
    return memory.usable_memory()


@pytest.mark.parametrize(
    ("membership", "limits", "usable"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "5000"}, 5000),
        ("0::/job/step\n", {"job/step/memory.max": "4000", "job/memory.max": "5000"}, 4000),
        ("0::/\n", {"memory.max": "3000"}, 3000),  # a container that sees its group as the root
        ("0::/\n", {}, MACHINE),  # no limit
        ("0::/job\n", {"job/memory.max": "max"}, MACHINE),
        ("0::/\n", {"memory.max": str(10 * MACHINE)}, MACHINE),
        ("0::/job\n", {"other/memory.max": "7"}, MACHINE),  # of another process
        (
            "9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "2000", "cpu/job/memory.limit_in_bytes": "7"},
            2000,
        ),
        (  # version 1 writes the largest number there is for none
            "4:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "9223372036854771712"},
            MACHINE,
        ),
        ("4:memory:/docker/4a\n", {"memory/memory.limit_in_bytes": "6000"}, 6000),
        (
            "4:memory:/job\n0::/job\n",
            {"memory/job/memory.limit_in_bytes": "2000", "unified/job/memory.max": "1000"},
            1000,
        ),
    ],
)
def test_control_groups_limit_what_is_usable(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    membership: str,
    limits: dict[str, str],
    usable: int,
) -> None:
    assert limited_to(monkeypatch, tmp_path, membership, **limits) == usable


def test_without_control_groups_all_memory_is_usable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "GROUPS_OF_PROCESS", tmp_path / "absent")
    assert memory.usable_memory() == MACHINE


def machine_with(monkeypatch: pytest.MonkeyPatch, folder: Path, available: int, swap: int) -> None:
    """A machine with so many kB left."""
    (folder / "meminfo").write_text(
        f"MemTotal: 99999 kB\nMemAvailable: {available} kB\n"
        f"HugePages_Total: 0\nSwapFree: {swap} kB\n"
    )
    monkeypatch.setattr(memory, "MACHINE", folder / "meminfo")


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/\n", {}, 7 * 1024),  # what the machine has left, with swap
        (
            "0::/job\n",
            {
                "job/memory.max": "6000",
                "job/memory.current": "5000",
                "job/memory.stat": "anon 9\nactive_file 60\ninactive_file 440",
            },
            1500,
        ),
        ("0::/job\n", {"job/memory.max": "6000", "job/memory.current": "7000"}, 0),
        (
            "4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": "2000",
                "memory/job/memory.usage_in_bytes": "1900",
                "memory/job/memory.stat": (
                    "inactive_file 1\ntotal_inactive_file 20\ntotal_active_file 10"
                ),
            },
            130,
        ),
    ],
)
def test_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    membership: str,
    files: dict[str, str],
    free: int,
) -> None:
    machine_with(monkeypatch, tmp_path, 5, 2)
    limited_to(monkeypatch, tmp_path, membership, **files)
    assert memory.free_memory() == free


def test_work_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine_with(monkeypatch, tmp_path, 10**6, 0)
    memory.check_room(10**9, "a.nii")
    with pytest.raises(PosconError, match=r"a.nii: takes about 2.0 GB of memory, but 1.0 GB are"):
        memory.check_room(2 * 10**9, "a.nii")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "absent")
    memory.check_room(10**18, "a.nii")  # nobody says what is free
