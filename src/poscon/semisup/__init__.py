"""Fine-tuning methods, one file each: a pure loss function and a small module around it."""

from importlib import import_module
from typing import TYPE_CHECKING

from poscon.errors import PosconError
from poscon.settings import nearest

if TYPE_CHECKING:
    from poscon.semisup.base import FinetuneMethod

METHODS = {"supervised": "Supervised"}
"""Method name, which is its module's, and the class in it."""


def find_method(name: str) -> "type[FinetuneMethod]":
    """The class of a fine-tuning method.

    Raises:
        PosconError: there is none of that name.
    """
    if name not in METHODS:
        raise PosconError(
            f"fine-tuning method {name!r} is unknown{nearest(name, METHODS)}; "
            f"known are {', '.join(METHODS)}"
        )
    return getattr(import_module(f"poscon.semisup.{name}"), METHODS[name])
