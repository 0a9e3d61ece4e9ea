"""Tasks done by processes of this machine; Ray is tested with prepare and compare."""

import multiprocessing
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from poscon.errors import PosconError
from poscon.executors import LocalEngine, check_engine, outcomes


class Slow:
    """An engine that ends the oldest task whenever it is full."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running: list[Future[str | None]] = []
        self.most = 0

    def submit(self, task: Any, *arguments: Any) -> "Future[str | None]":
        future: Future[str | None] = Future()
        self.running.append(future)
        self.most = max(self.most, len([f for f in self.running if not f.done()]))
        if len(self.running) % (2 * self.capacity) == 0:
            for each in self.running:
                if not each.done():
                    each.set_result(task(*arguments))
        return future

    def close(self) -> None:
        pass


def test_tasks_are_handed_out_as_there_is_room() -> None:
    engine, taken = Slow(3), []

    def arguments():
        for number in range(60):
            taken.append(number)
            yield f"task {number}", (number,)

    found = outcomes(engine, lambda number: str(number), arguments())
    next(found)
    assert len(taken) == 6
    assert len(list(found)) == 59
    assert engine.most == 6


def write(path: Path, text: str) -> str | None:
    path.write_text(f"{text} {os.getpid()}")
    return None if text == "good" else text


def end(path: Path) -> None:
    os._exit(1)


def test_processes_do_tasks_and_their_end_is_one_line(tmp_path: Path) -> None:
    other = multiprocessing.get_context("fork").Process(target=lambda: __import__("time").sleep(60))
    other.start()
    engine = LocalEngine(1, gpus=False)
    try:
        told = [(name, (tmp_path / name, name)) for name in ("good", "bad", "worse")]
        found = set(outcomes(engine, write, told))
        assert found == {None, "bad", "worse"}
        for name in ("good", "bad", "worse"):
            assert (tmp_path / name).read_text().split()[1] != str(os.getpid())
        with pytest.raises(PosconError, match=r"^scan: not done .*run the same command again$"):
            list(outcomes(engine, end, [("scan", (tmp_path,))]))
    finally:
        engine.close()
    other.join(1)  # a second in which it could end
    assert other.is_alive()  # which was not the engine's
    other.kill()


def threads() -> str:
    return str(torch.get_num_threads())


@pytest.mark.parametrize(
    ("cores", "processes", "asked_for", "expected"),
    [(6, 2, None, "3"), (2, 4, None, "1"), (6, 2, "1", "1")],
)
def test_cores_are_shared_out_unless_the_user_says_otherwise(
    cores: int,
    processes: int,
    asked_for: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked_for:
        monkeypatch.setenv("OMP_NUM_THREADS", asked_for)
    monkeypatch.setattr("poscon.executors.usable_cores", lambda: cores)
    fork = multiprocessing.get_context("fork")  # by itself each process would import torch
    monkeypatch.setattr("poscon.executors.multiprocessing.get_context", lambda _: fork)
    engine = LocalEngine(processes, gpus=False)
    try:
        assert list(outcomes(engine, threads, [("a task", ())])) == [expected]
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("dask", None, None), "--engine dask: must be local or ray"),
        (("local", "here:1", None), "--address: no effect without --engine ray"),
        (("ray", None, 2), "--processes: no effect with --engine ray"),
        (("local", None, 0), "--processes 0: must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(told: tuple[Any, ...], words: str) -> None:
    with pytest.raises(PosconError, match=words):
        check_engine(*told)
