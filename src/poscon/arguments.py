"""The arguments of public functions are checked for their type, and refused in one line."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from poscon.errors import PosconError
from poscon.files import printable

P = ParamSpec("P")
R = TypeVar("R")

_SIMPLE = (int, float, bool, str, Path, NoneType)
_NUMBERS = (int, float)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check each argument against its annotation: numbers, texts, paths and triples of numbers.

    A number given as text is refused, and so is a text given as a number. NumPy's numbers count as
    Python's. Arguments of other types, such as settings, are left to the function.

    Raises:
        PosconError: by the wrapped function, if an argument is of another type.
    """
    signature = inspect.signature(function)

    @functools.cache
    def adapters() -> dict[str, tuple[TypeAdapter[Any], bool]]:
        hints = get_type_hints(function)
        leaves = {name: _leaves(hints[name]) for name in signature.parameters}
        return {
            name: (
                TypeAdapter(hints[name], config=ConfigDict(strict=True)),
                any(leaf in _NUMBERS for leaf in found),
            )
            for name, found in leaves.items()
            if all(leaf in _SIMPLE for leaf in found)
        }

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in adapters():
                bound.arguments[name] = _check(name, value, *adapters()[name])
        return function(*bound.args, **bound.kwargs)

    return wrapper


def _leaves(hint: Any) -> list[Any]:
    """The types that an annotation is made of; those of a Literal's values for a Literal."""
    if get_origin(hint) is Literal:
        return [type(value) for value in get_args(hint)]
    if get_origin(hint) in (Union, UnionType, tuple):
        return [leaf for part in get_args(hint) for leaf in _leaves(part)]
    return [hint]


def _check(name: str, value: Any, adapter: TypeAdapter[Any], numeric: bool) -> Any:
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    plain = tuple(plain) if isinstance(plain, list) else plain
    try:
        # pydantic takes no text with surrogates, as the name of a file may have
        adapter.validate_python(printable(plain) if isinstance(plain, str) else plain)
    except ValidationError as error:
        if numeric and isinstance(value, str) and _is_number(value):
            raise PosconError(
                f"{name}={value!r}: is a text; give the number itself, {name}={value.strip()}"
            ) from None
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        raise PosconError(f"{name}={value!r}: {reason}") from None
    return plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
