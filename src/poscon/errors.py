"""The errors that a user may cause, and that a user may read."""

import re
from typing import Any

LONGEST = 2000
"""Characters of a message. What is left out of a longer one is in its middle."""
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters by which a text commands a terminal, or changes the direction of what follows."""


def harmless(text: str) -> str:
    """A text as a terminal can show it: what commands a terminal becomes an escape in letters.

    Names of files and what stands in files may have such characters. Ends of lines and tabs stay.
    """
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PosconError(Exception):
    """Something the user gave cannot be used.

    The message is one line that says which file or setting, what is wrong with it and what to
    do. The command line prints it and exits with code 2; the Python API raises it.

    Args:
        message: its text. It is made one line of at most ``LONGEST`` characters that commands no
            terminal, whatever names and values it quotes.
    """

    def __init__(self, message: str) -> None:
        line = harmless(" ".join(message.split()))
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 + 5 :]}"
        super().__init__(line)


class NotWritten(PosconError):
    """What was computed could not be written.

    Attributes:
        result: what the function would have returned.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


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
