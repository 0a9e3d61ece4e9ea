"""The command line in a forked copy of this process, which has imported poscon once."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from poscon.cli import main

LIMIT = 120
"""Seconds after which a command counts as one that hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; minus the number of the signal that ended it.
        out, err: what it wrote to stdout and stderr.
    """

    code: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether it ended with exit code 2 and one line that says why, without a traceback."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return self.code == 2 and len(errors) == 1 and "Traceback" not in self.err

    def __str__(self) -> str:
        return f"exit code {self.code}: {(self.err.strip().splitlines() or ['nothing said'])[-1]}"


def poscon(arguments: Sequence[object], before: Callable[[], object] | None = None) -> Outcome:
    """Run ``poscon ARGUMENTS`` in a forked process.

    Args:
        arguments: the command and its arguments.
        before: called in the process first; it may change limits, mounts and the environment.
    """
    with TemporaryDirectory() as folder:
        texts = [Path(folder) / name for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os._exit(_in_child([str(each) for each in arguments], texts, before))
        code = _wait(child)
        out, err = (
            text.read_text(encoding="utf-8", errors="replace") if text.exists() else ""
            for text in texts
        )
    return Outcome(code, out, err)


def _wait(child: int) -> int:
    """The exit code of a process; it is killed where it hangs."""
    end = time.monotonic() + LIMIT
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _in_child(arguments: list[str], texts: list[Path], before: Callable[[], object] | None) -> int:
    code = 1
    try:
        for number, text in enumerate(texts, start=1):
            os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
        # those of a test runner lead elsewhere
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", buffering=1)  # noqa: SIM115
        sys.argv = ["poscon", *arguments]
        if before is not None:
            before()
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
