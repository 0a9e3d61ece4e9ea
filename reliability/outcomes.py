"""How the scripts of this folder count and print: a promise, how often it was tried and held."""

import sys
from dataclasses import dataclass, field


@dataclass
class Promise:
    """What must hold, and what came of every try.

    Args:
        words: The promise in a few words, as the page about reliability has it.
    """

    words: str
    tried: int = 0
    broken: list[str] = field(default_factory=list)

    def note(self, held: bool, what: str) -> None:
        """Count a try.

        Args:
            held: Whether the promise held.
            what: The input, so that a try that broke it can be repeated.
        """
        self.tried += 1
        if not held:
            self.broken.append(what)

    def line(self) -> str:
        """``words: tried N, held M``."""
        return f"{self.words}: tried {self.tried:,}, held {self.tried - len(self.broken):,}"


def finish(promises: list[Promise]) -> None:
    """Print all lines, and each input that broke a promise; exit with 1 if there is one."""
    for promise in promises:
        print(promise.line())
        for what in promise.broken:
            print(f"  broken by: {what}")
    sys.exit(any(promise.broken for promise in promises))
