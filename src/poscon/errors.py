"""The errors that a user may cause, and that a user may read."""

from typing import Any


class PosconError(Exception):
    """Something the user gave cannot be used.

    The message is one line that says which file or setting, what is wrong with it and what to
    do. The command line prints it and exits with code 2; the Python API raises it.
    """


class PartlyDone(PosconError):
    """Some of many inputs could not be used; the others were done and are kept.

    Attributes:
        result: what the function returns, for the inputs that were done.
        failed: what was wrong, by the name of the input.
    """

    def __init__(self, what: str, failed: dict[str, str], total: int, result: Any) -> None:
        super().__init__(
            f"{next(iter(failed.values()))}; {len(failed)} of {total} {what}, what could be done "
            "is kept"
        )
        self.failed = failed
        self.result = result
