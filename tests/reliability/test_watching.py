"""What a process holds, and whether it grows."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from watching import Sample, after_warm_up, growth, rise, sample, slowdown, watch

LEAKS = """
import sys
kept = []
for line in sys.stdin:
    kept.append((b"x" * 1_000_000 + line.encode(), open(sys.executable, "rb")))
    print("done", flush=True)
"""
LEAVES = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
import time; time.sleep(0.5)
"""


def samples(memory: Sequence[float], seconds: Sequence[float] | None = None) -> list[Sample]:
    return [
        Sample(10 * number, mb, 5, 1, 1, seconds[number] if seconds else number)
        for number, mb in enumerate(memory)
    ]


def test_growth_is_the_slope_after_the_warm_up() -> None:
    memory = [*np.linspace(100, 400, 20), *(400 + np.random.default_rng(0).normal(size=80))]
    found = samples(memory)
    kept = after_warm_up(found)
    assert kept[0].done == 200  # a fifth of 990 is 198
    slope = np.polyfit([one.done for one in kept], [one.memory for one in kept], 1)[0]
    assert growth(found, "memory") == pytest.approx(slope)
    assert rise(found, "memory") == pytest.approx(slope * 790)
    assert growth(found, "files") == 0


def test_growth_of_nothing_done_is_0() -> None:
    assert growth([Sample(0, 100.0, 1, 1, 1, 0.0), Sample(0, 200.0, 1, 1, 1, 0.0)], "memory") == 0


def test_the_last_quarter_against_the_second() -> None:
    assert slowdown(samples([1.0] * 101)) == pytest.approx(1)
    costs_all_before_it = [float(number**2) for number in range(101)]
    assert slowdown(samples([1.0] * 101, costs_all_before_it)) == pytest.approx(7 / 3)


def test_a_leak_is_seen() -> None:
    found = []
    with subprocess.Popen(
        [sys.executable, "-c", LEAKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(50):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            now = sample(process.pid, number)
            assert now is not None
            found.append(now)
    assert growth(found, "memory") == pytest.approx(1, rel=0.1)  # MB a piece of work
    assert growth(found, "files") == pytest.approx(1)
    assert (found[-1].threads, found[-1].processes) == (1, 1)


def test_what_a_command_prints_and_how_it_ends_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no')"]
    found = watch(command, lambda: 0, log=tmp_path / "log", every=0.05)
    assert (found.code, found.left, found.errors) == (1, [], "no\n")


def test_a_process_that_is_left_is_seen(tmp_path: Path) -> None:
    found = watch([sys.executable, "-c", LEAVES], lambda: 0, log=tmp_path / "log", every=0.05)
    try:
        assert len(found.left) == 1
        assert max(one.processes for one in found.samples) == 2
    finally:
        for process in found.left:
            subprocess.run(["kill", "-9", str(process)], check=True)


def test_nothing_is_seen_of_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert sample(process.pid, 0) is None
