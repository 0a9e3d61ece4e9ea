"""Commands of poscon in processes of their own, without the seconds that each import takes.

One process imports everything. Each command is a fork of it, which calls the command line in a
session of its own. The processes of ``--processes`` are forks too: poscon itself starts them anew.
A command runs in a folder that has what it reads, and writes there under the same names each time,
so that two results can be compared byte by byte.
"""

import csv
import gzip
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import safe_open

import poscon
from poscon.cli import main
from poscon.files import LOCK
from poscon.volumes.phantom import write_phantom

SIZE = ("size=32", "network.width=4", "network.levels=2", "batch=16", "precision=32")
PLAN = {
    "description": "a trial",
    "data": {"prepare": {"spacing": 6.0}},
    "pretraining": ["random", "pcl"],
    "labelled": [1],
    "folds": 2,
    "size": 32,
    "precision": 32,
    "network": {"width": 2, "levels": 2},
    "pretrain": {"epochs": 2, "batch": 16},
    "finetune": {"iterations": 24, "batch": 4, "checkpoint_every": 6},
}
TIMES = ("slices_per_second", "seconds")
"""Columns and keys that no two runs have alike."""


@dataclass(frozen=True)
class Command:
    """A long command, and how it is called again after it was cut off.

    Attributes:
        name: the command.
        arguments: what follows it.
        writes: the folder that it writes, in the folder where it runs.
        again: what is added to the same command; the documentation says so.
        copies: folders that it changes, so that each trial has a copy.
    """

    name: str
    arguments: tuple[str, ...]
    writes: str
    again: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


class TooLate(Exception):
    """A command had ended before the moment that was drawn for it."""


def settings(*changes: str) -> tuple[str, ...]:
    """Changes of settings as options of the command line."""
    return tuple(part for change in changes for part in ("--set", change))


COMMANDS = (
    Command("prepare", ("scans", "new.store", "--spacing", "3", "--processes", "2"), "new.store"),
    Command(
        "pretrain",
        ("store", "run", "--epochs", "3", *settings(*SIZE)),
        "run",
        again=("--resume",),
    ),
    Command(
        "finetune",
        (
            *("store", "run", "--init", "pre", "--labelled", "3", "--iterations", "16"),
            *settings("size=32", "batch=8", "precision=32", "checkpoint_every=4"),
        ),
        "run",
        again=("--resume",),
    ),
    Command("predict", ("seg", "scans", "maps"), "maps", again=("--resume",)),
    Command("compare", ("plan.yaml", "out", "--data", "scans", "--processes", "2"), "out"),
    Command("align", ("store",), "store", copies=("store",)),
    Command(
        "suggest",
        ("open.store", "next", "--budget", "6", "--init", "pre", "--source", "images"),
        "next",
    ),
    Command("label", ("open.store", "maps"), "open.store", copies=("open.store",)),
    Command("export", ("seg", "exported", "--to", "torch"), "exported"),
)


def warm_up() -> None:
    """Import all that a command may import, and use one thread, as many as a fork may."""
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(poscon.__path__, "poscon."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("lightning_fabric", "torch.utils.tensorboard", "torch._dynamo"):
        importlib.import_module(name)


@dataclass
class Started:
    """A command that is at work.

    Attributes:
        pid: its process, which leads a session and a group of the same number.
        log: what it prints.
        began: when, in seconds of the monotonic clock.
    """

    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = 600) -> int | None:
        """The exit code, negative for a signal; None if it is still at work after so long."""
        until = time.monotonic() + seconds
        while True:
            late = time.monotonic() >= until  # asked first: it may end while this process waits
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if late:
                return None
            time.sleep(0.005)

    def family(self) -> list[int]:
        """The processes of its session that are alive, itself too."""
        return [pid for pid, session in _sessions() if session == self.pid]

    def last_of_family(self, seconds: float = 20) -> float:
        """Seconds until no process of its session is alive; infinity if one outlives the time."""
        began = time.monotonic()
        while self.family():
            if time.monotonic() - began > seconds:
                return float("inf")
            time.sleep(0.02)
        return time.monotonic() - began


def _sessions() -> Iterator[tuple[int, int]]:
    """Process and session of everything that is alive."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:  # it has ended
                continue
            if state not in "ZX":
                yield int(path.name), int(session)


def start(
    folder: Path,
    arguments: tuple[str, ...],
    before: Callable[[], None] | None = None,
    log: str = "log.txt",
) -> Started:
    """Begin a command in a folder.

    Args:
        folder: its working folder.
        arguments: of the command line.
        before: is called in the new process, before the command is.
        log: file in that folder for what it prints.
    """
    pid = os.fork()
    if pid:
        return Started(pid, folder / log)
    code: object = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
        os.chdir(folder)
        output = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        sys.argv = ["poscon", *arguments]
        fork = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]
        if before is not None:
            before()
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def run(folder: Path, *arguments: str) -> None:
    """Do a command that has to succeed.

    Raises:
        RuntimeError: it does not.
    """
    started = start(folder, arguments)
    if started.wait() != 0:
        raise RuntimeError(f"poscon {' '.join(arguments)}: {started.log.read_text()}")


def make_world(folder: Path, seed: int, subjects: int) -> None:
    """What the commands read: scans, stores, a pre-trained encoder, a model, a plan."""
    write_phantom(folder / "scans", subjects=subjects, seed=seed)
    shutil.copytree(folder / "scans" / "imagesTr", folder / "images")
    shutil.copytree(folder / "scans" / "labelsTr", folder / "maps")
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    run(folder, "prepare", "scans", "store", "--spacing", "6", "--processes", "1")
    run(folder, "prepare", "images", "open.store", "--spacing", "6", "--processes", "1")
    run(folder, "pretrain", "store", "pre", "--epochs", "1", *settings(*SIZE))
    how = settings("size=32", "batch=8", "precision=32")
    run(folder, "finetune", "store", "seg", "--init", "pre", "--iterations", "8", *how)


def fresh(world: Path, command: Command) -> Path:
    """The folder of a trial, as it is before the command; that of the trial before is gone."""
    folder = world / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("scans", "images", "maps", "store", "open.store", "pre", "seg", "plan.yaml"):
        if name in command.copies:
            shutil.copytree(world / name, folder / name)
        elif name != command.writes:
            (folder / name).symlink_to(world / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without times and what only shows a training.

    Left out are TensorBoard's files, the costs and the logs of a comparison, and its report, which
    has the costs.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        shown = any(part in ("tensorboard", "logs") for part in path.relative_to(folder).parts)
        if path.is_dir() or shown or path.name in ("cost.json", "report.html"):
            continue
        found[name] = _without_times(path)
    return found


def _without_times(path: Path) -> bytes:
    """What a file says. The same state may be pickled in several ways, so a checkpoint is read."""
    raw = path.read_bytes()
    if path.suffix == ".ckpt":
        return _plain(torch.load(path, weights_only=True)).encode()
    if path.name != "metrics.csv":
        return raw
    rows = list(csv.DictReader(io.StringIO(raw.decode())))
    return repr([{k: v for k, v in row.items() if k not in TIMES} for row in rows]).encode()


@cache
def reference(world: Path, command: Command) -> tuple[dict[str, bytes], float]:
    """What an undisturbed run writes, and the seconds it takes.

    Raises:
        RuntimeError: it fails, or two such runs differ.
    """
    found, seconds = [], []
    for _ in range(2):
        folder = fresh(world, command)
        began = time.monotonic()
        run(folder, command.name, *command.arguments)
        seconds.append(time.monotonic() - began)
        found.append(contents(folder / command.writes))
    if different := differences(*found):
        raise RuntimeError(f"poscon {command.name}: two undisturbed runs differ: {different}")
    return found[0], seconds[1]


def _plain(state: object) -> str:
    """A nested state as text, with every digit of its tensors."""
    if isinstance(state, torch.Tensor):
        return f"{state.dtype} {tuple(state.shape)} {state.numpy().tobytes().hex()}"
    if isinstance(state, dict):
        return "{" + ", ".join(f"{name}: {_plain(value)}" for name, value in state.items()) + "}"
    if isinstance(state, list | tuple):
        return "[" + ", ".join(map(_plain, state)) + "]"
    return repr(state)


def differences(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """The files that only one of two results has, or that differ."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def goes_on(
    folder: Path, command: Command, arguments: tuple[str, ...], expected: dict[str, bytes]
) -> str | None:
    """Call a command that was cut off again, and compare what it writes.

    Args:
        folder: where it was cut off.
        command: which.
        arguments: of the second call.
        expected: what an undisturbed run writes.

    Returns:
        What went wrong; None: nothing did.
    """
    target = folder / command.writes
    if broken := broken_files(target):
        return f"cannot be read: {broken}"
    second = start(folder, arguments)
    code = second.wait()
    if code is None:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()
        return "the second call does not end"
    said = second.log.read_text().strip()
    # what was cut off after its last file was in place
    complete = code == 2 and ("exists already" in said or "a store already" in said)
    if code != 0 and not complete:
        return f"the second call ends with {code}: {said.splitlines()[-1] if said else ''}"
    if different := differences(expected, contents(target)):
        return f"differs from the undisturbed run: {different}"
    if left := leftovers(target):
        return f"left behind: {left}"
    return None


def leftovers(folder: Path) -> list[str]:
    """What no command should leave: half-written files and locks."""
    found = [*folder.rglob(".writing-*"), *folder.rglob(LOCK), *folder.rglob(".work")]
    found += folder.parent.glob(".writing-*")
    return [str(path.relative_to(folder.parent)) for path in found]


def broken_files(folder: Path) -> list[str]:
    """Files in place that cannot be read; those that were being written have another name."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".writing-") for part in inside):
            try:
                _read(path)
            except Exception as error:
                found.append(f"{path.relative_to(folder)}: {error}")
    return found


def _read(path: Path) -> None:
    name = path.name
    if name.endswith(".json"):
        json.loads(path.read_text())
    elif name.endswith(".yaml"):
        yaml.safe_load(path.read_text())
    elif name.endswith(".npy"):
        np.load(path)
    elif name.endswith(".gz"):
        gzip.decompress(path.read_bytes())
    elif name.endswith((".ckpt", ".pt2")):
        with zipfile.ZipFile(path) as file:
            file.testzip()
    elif name.endswith(".safetensors"):
        with safe_open(path, "pt") as file:
            list(file.keys())
