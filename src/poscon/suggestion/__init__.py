"""Strategies that choose what to label next, one file each, and what they choose by."""

from typing import TYPE_CHECKING

from poscon import plugins
from poscon.methods import load_method

if TYPE_CHECKING:
    from poscon.suggestion.base import Strategy

STRATEGIES = {
    "spread": "Spread",
    "ends": "Ends",
    "random": "Random",
    "coverage": "Coverage",
    "typical": "Typical",
    "uncertain": "Uncertain",
    "hybrid": "Hybrid",
}
"""The strategies of poscon: the name, which is that of the module, and the class in it."""


def find_strategy(name: str) -> "type[Strategy]":
    """The class of a strategy, of poscon's own or of a plug-in.

    Raises:
        PosconError: there is none of that name, or the plug-in cannot be used.
    """
    from poscon.suggestion.base import Strategy

    return load_method(plugins.SUGGESTION, Strategy, __name__, STRATEGIES, name)


def known_strategies() -> dict[str, str]:
    """The name of every strategy, and where it comes from: poscon or a plug-in's package."""
    return plugins.names(plugins.SUGGESTION, STRATEGIES)
