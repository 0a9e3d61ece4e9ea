"""Damaged files: every reader gives a valid result, or refuses the file in one line that names it.

Each input is a valid file of a format that poscon reads, damaged at random
(:mod:`mutations`), given to the function that reads such files (:mod:`readers`). A promise is
broken by any other error, by a reader that takes longer than ``SECONDS``, by one that takes more
than ``MEMORY`` bytes more than before, by the end of the process, and by a file that is written or
changed. The same seed gives the same inputs. An input that broke a promise is kept in ``--keep``.
"""

import argparse
import contextlib
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples import make_runs
from mutations import damaged
from outcomes import Promise, finish
from readers import Reader, all_readers

from poscon.errors import PosconError
from poscon.progress import silent

SECONDS = 10.0
MEMORY = 512 * 2**20


@dataclass(frozen=True)
class Fault:
    """What was wrong with a reader.

    Attributes:
        kind: the error and the line of poscon that it came from, to count alike faults once.
        text: more of it, for who repairs it.
    """

    kind: str
    text: str = ""


class Hang(BaseException):
    """A reader takes too long. It is no ``Exception``, which a reader might catch."""


def content_of(reader: Reader, seed: int, number: int) -> bytes:
    """The input of a number."""
    return damaged(reader.seeds, reader.kind, random.Random(f"{seed} {reader.name} {number}"))


def fault_of(reader: Reader, content: bytes) -> Fault | None:
    """Give a file to a reader; None if the promise held."""
    reader.place.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _limited(), silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(reader.place)
    except PosconError as error:
        message = str(error)
        if not any(word in message for word in reader.words):
            return Fault("a refusal that does not name the file", message[:200])
        if "\n" in message:
            return Fault("a refusal of several lines", message[:200])
    except Hang:
        return Fault("a reader that hangs", traceback.format_exc())
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "poscon" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return Fault(f"{type(error).__name__} at {place}", traceback.format_exc()[-1500:])
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return Fault(f"{used >> 20} MiB of memory") if used > MEMORY else None


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def try_reader(reader: Reader, inputs: int, seed: int, keep: Path | None) -> Promise:
    """Give many inputs to a reader."""
    promise = Promise(reader.name)
    before = _snapshot(reader)
    kinds: set[str] = set()
    for number in range(inputs):
        content = content_of(reader, seed, number)
        fault = fault_of(reader, content)
        new = fault is not None and fault.kind not in kinds
        promise.note(fault is None, f"--only {reader.name!r} --number {number}: {fault}")
        if fault is not None and new:
            kinds.add(fault.kind)
            if keep is not None:
                (keep / f"{reader.name}-{number}-{reader.place.name}").write_bytes(content)
    reader.place.write_bytes(reader.seeds[0])
    after = _snapshot(reader)
    if after != before:
        promise.note(False, f"{reader.name}: files changed: {sorted(set(after) ^ set(before))[:3]}")
    return promise


def _snapshot(reader: Reader) -> dict[str, int]:
    """Every file around a reader's folder, and its size."""
    files = (path for path in reader.around.rglob("*") if path.is_file() and path != reader.place)
    return {str(path): path.stat().st_size for path in files}


def shares(readers: Sequence[Reader], inputs: int) -> dict[str, int]:
    """How many inputs each reader gets, at least one."""
    parts = {reader.name: 1 / reader.cost for reader in readers}
    whole = sum(parts.values())
    return {name: max(1, round(inputs * part / whole)) for name, part in parts.items()}


def _in_child(reader: Reader, inputs: int, seed: int, keep: Path | None) -> Promise:
    """Try a reader in a process of its own, whose end would not end the others."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def work() -> None:
        send.send(try_reader(reader, inputs, seed, keep))

    child = context.Process(target=work)
    child.start()
    send.close()
    try:
        promise: Promise = receive.recv()
    except EOFError:  # the last input is still in its place
        promise = Promise(reader.name, inputs)
        promise.broken.append(f"{reader.name}: the process ended by itself")
        if keep is not None:
            (keep / f"{reader.name}-end-{reader.place.name}").write_bytes(reader.place.read_bytes())
    child.join()
    return promise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the name of a reader")
    parser.add_argument("--number", type=int, help="with --only: the input of this number")
    parser.add_argument("--keep", type=Path, help="folder for inputs that broke a promise")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_runs(Path(scratch))
        readers = all_readers(Path(scratch), *made)
        if options.only is not None:
            readers = [reader for reader in readers if reader.name == options.only]
        if options.number is not None:
            fault = fault_of(readers[0], content_of(readers[0], options.seed, options.number))
            sys.stdout.write(f"{'held' if fault is None else f'{fault.kind}: {fault.text}'}\n")
            sys.exit(fault is not None)
        counts = shares(readers, options.inputs)
        promises = []
        for reader in readers:
            promises.append(_in_child(reader, counts[reader.name], options.seed, options.keep))
            sys.stderr.write(f"{promises[-1].line()}\n")
        total = Promise("all readers", sum(promise.tried for promise in promises))
        total.broken = [promise.words for promise in promises for _ in promise.broken]
        finish([*promises, total])


if __name__ == "__main__":
    main()
