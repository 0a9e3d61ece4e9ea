"""What poscon needs of the environment in which a process runs, where that has less than usual."""

import codecs
import logging
import os
import pwd
import sys

_USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""The variables that Python asks before it asks the system for the user's name."""
_PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-"}


def name_the_user() -> None:
    """Give the user a name where the system has none for its number.

    A container that is started with ``--user`` has no passwd entry for it. MONAI asks for the name
    when it is imported, and ends with a KeyError.
    """
    if any(os.environ.get(name) for name in _USER_NAMES):
        return
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


def open_streams() -> None:
    """Lead stdin, stdout and stderr nowhere where they were closed.

    Else the next file that is opened takes their number, and gets what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def write_anything() -> None:
    """Let stdout and stderr write what their encoding lacks: ``+-`` for ``±``, else an escape.

    An ASCII terminal has no ``±``; names of files that are not UTF-8 are in no encoding.
    """
    codecs.register_error("poscon", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="poscon")


def quiet_libraries() -> None:
    """Matplotlib says at length that it makes a cache elsewhere where HOME cannot be written."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(
        _PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text
    ), error.end
