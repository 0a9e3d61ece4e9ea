"""Finding a method by its name: the module it is in is imported only then."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from poscon.errors import PosconError
from poscon.settings import nearest


def load_method(kind: str, room: str, methods: Mapping[str, str], name: str) -> Any:
    """The class of a method.

    Args:
        kind: what to call it in a message.
        room: the package that has a module for each method.
        methods: class by method name; the module has the method's name.
        name: of the method.

    Raises:
        PosconError: there is none of that name.
    """
    if name not in methods:
        raise PosconError(
            f"{kind} method {name!r} is unknown{nearest(name, methods)}; "
            f"known are {', '.join(methods)}"
        )
    return getattr(import_module(f"{room}.{name}"), methods[name])
