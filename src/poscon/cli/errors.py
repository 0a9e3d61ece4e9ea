"""How the command line ends when something goes wrong: one line on stderr and an exit code."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from poscon.errors import PosconError

REFUSED = 2
INTERRUPTED = 130

_PLACES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS),  # no room, or not allowed
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),  # a file where a folder belongs, or vice versa
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),  # it has gone, or cannot have this name
    *(errno.EFBIG, errno.EMFILE, errno.ENFILE),  # a limit of the file system or the process
    *(errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN),  # the disk has gone
)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error that the user can repair into one line on stderr and exit code 2.

    Any other error is a mistake in poscon. It keeps its traceback.
    """
    try:
        yield
    except PosconError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        sys.exit(_fail(f"{error.filename or _place()}: cannot be used ({error.strerror})"))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # which is what Typer makes of Ctrl-C
            sys.stderr.write("interrupted; what was finished is kept\n")
        raise


def _place() -> str:
    """What cannot be used, where the error does not say it."""
    try:
        os.getcwd()
    except OSError:
        return "the working folder, which was deleted,"
    return "the output"


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return REFUSED
