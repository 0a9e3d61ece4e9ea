"""What is wrong with settings, in the words of a user."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from poscon.errors import PosconError


class WrongSetting(PosconError):
    """A setting is unknown or has a wrong value.

    Attributes:
        key: its name, with a dot after each group; empty: several that do not go together.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def wrong_setting(error: ValidationError, model: type[BaseModel], prefix: str) -> WrongSetting:
    """One of the things that pydantic reports, as one line.

    Args:
        error: what it reports.
        model: the class of the settings.
        prefix: name of the group that the settings are, or an empty text.
    """
    found = error.errors()
    # of a union, what fits best; a name that is misspelt before one that is missing
    first = max(found, key=lambda each: (len(each["loc"]), each["type"] == "extra_forbidden"))
    location = [str(part) for part in first["loc"]]
    # pydantic also counts members, and which kind of a union it tried; these are no settings
    names = [p for i, p in enumerate(location) if p in _fields(model, location[:i])]
    if first["type"] == "extra_forbidden":
        known = _fields(model, location[:-1])
        key = ".".join([*([prefix] if prefix else []), *names, location[-1]])
        return WrongSetting(
            f"unknown setting {key!r}{nearest(location[-1], known)}; "
            f"known here: {', '.join(known) or 'none'}",
            key,
        )
    alternatives = [
        other
        for other in found  # of a union: beside the first, and no field of its own
        if other["loc"][:-1] == first["loc"][:-1]
        and other["input"] is first["input"]
        and not {*other["loc"][-1:], *first["loc"][-1:]} & {*_fields(model, location[:-1])}
    ]
    message = " or ".join(dict.fromkeys(map(_in_words, [first, *alternatives])))
    message = message.replace(" or must be ", " or ")
    key = ".".join([prefix, *names] if prefix else names)
    if not key:  # several settings that do not go together
        return WrongSetting(f"settings: {message}", key)
    if first["type"] in ("missing", "value_error") and isinstance(first["input"], Mapping):
        return WrongSetting(f"setting {key}: {message}", key)
    return WrongSetting(f"setting {key} = {first['input']!r}: {message}", key)


_IN_WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list, such as [a, b]",
    "list": "must be a list, such as [a, b]",
    "string": "must be a text",
    "dict": "must be settings, such as {key: value}",
    "model": "must be settings, such as {key: value}",
    "missing": "must be stated",
}
"""What is wrong, by the first word of pydantic's name for it, where it says what type is wanted."""


def _in_words(error: Mapping[str, Any]) -> str:
    """What pydantic found, in the words of a user."""
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):
        return "must have more members"
    wanted, _, what = error["type"].partition("_")
    if what in ("type", "parsing", "parsing_size", "from_float", "") and wanted in _IN_WORDS:
        return _IN_WORDS[wanted]
    message = error["msg"].removeprefix("Value error, ")
    return re.sub(r"^(?:Input|String|Tuple|List|Dictionary) should ", "must ", message)


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """The fields of the settings group that ``path`` leads to."""
    for part in path:
        field = model.model_fields.get(part)
        model = next(_groups(field.annotation if field else None), model)
    return sorted(model.model_fields)


def _groups(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings groups that a field may hold, by itself or as members of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for kind in get_args(annotation):
        yield from _groups(kind)


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest known word, or nothing."""
    matches = get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
