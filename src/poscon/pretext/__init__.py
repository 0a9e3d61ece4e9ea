"""Pre-training methods, one file each: a pure loss function and a small module around it."""

from importlib import import_module
from typing import TYPE_CHECKING

from poscon.errors import PosconError
from poscon.settings import nearest

if TYPE_CHECKING:
    from poscon.pretext.base import PretextMethod

METHODS = {"pcl": "PositionalContrast"}
"""Method name, which is its module's, and the class in it."""


def find_method(name: str) -> "type[PretextMethod]":
    """The class of a pre-training method.

    Raises:
        PosconError: there is none of that name.
    """
    if name not in METHODS:
        raise PosconError(
            f"pre-training method {name!r} is unknown{nearest(name, METHODS)}; "
            f"known are {', '.join(METHODS)}"
        )
    return getattr(import_module(f"poscon.pretext.{name}"), METHODS[name])
