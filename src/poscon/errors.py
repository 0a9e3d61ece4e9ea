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
        result: what the function would have returned, for the inputs that were done.
        failed: what was wrong, by the name of the input.
    """

    def __init__(self, what: str, failed: dict[str, str], result: Any) -> None:
        first, *others = failed.values()
        more = f" (and {len(others)} more {what})" if others else ""
        super().__init__(f"{first}{more}; the others are done and kept")
        self.failed = failed
        self.result = result
