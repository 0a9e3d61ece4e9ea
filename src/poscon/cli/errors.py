"""How the command line ends when something goes wrong: one line on stderr and an exit code."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from poscon.errors import PosconError
from poscon.stops import Terminated

REFUSED = 2
INTERRUPTED = 130
TERMINATED = 143

_PLACES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),  # no room, or not allowed
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),  # a file where a folder belongs, or vice versa
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),  # it has gone, or cannot have this name
    *(errno.EFBIG, errno.EMFILE, errno.ENFILE),  # a limit of the file system or the process
    *(errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN),  # the disk has gone
)

_NO_MEMORY = ("can't allocate memory", "could not create a primitive")
"""What torch says, and oneDNN, which computes its convolutions."""


@contextmanager
def one_line_errors(again: str) -> Iterator[None]:
    """Turn an error that the user can repair into one line on stderr and exit code 2.

    Any other error is a mistake in poscon. It keeps its traceback.

    Args:
        again: the command that goes on where this one is interrupted.
    """
    try:
        yield
    except PosconError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        message = f"{error.filename or _place()}: cannot be used ({error.strerror})"
        sys.exit(_fail(str(PosconError(message))))
    except (MemoryError, RuntimeError) as error:
        if not _short_of_memory(error):
            raise
        sys.exit(
            _fail(
                f"out of memory ({error}); what was finished is kept; ask for less at a time (a "
                "smaller batch, size or number of processes), or take a machine with more"
            )
        )
    except KeyboardInterrupt as error:
        sys.exit(_interrupted(error, again))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # which is what Typer makes of Ctrl-C
            sys.exit(_interrupted(end, again))
        raise


def _interrupted(error: BaseException, again: str) -> int:
    sys.stderr.write(f"interrupted; what was finished is kept; go on with: {again}\n")
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Terminated):
        cause = cause.__cause__ or cause.__context__
    return INTERRUPTED if cause is None else TERMINATED


def _short_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch got no memory; on a CPU the last says so in words only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in _NO_MEMORY)
    )


def _place() -> str:
    """What cannot be used, where the error does not say it."""
    try:
        os.getcwd()
    except OSError:
        return "the working folder, which was deleted"
    return "the output"


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return REFUSED
