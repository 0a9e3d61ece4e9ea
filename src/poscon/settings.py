"""Settings: declared with pydantic, read from a recipe, overridden by ``--set``, never ignored."""

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from poscon.errors import PosconError
from poscon.wrong_settings import WrongSetting, nearest, wrong_setting


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, values: Any) -> Any:
        """A group given in part keeps the rest of *this* command's defaults for it."""
        if not isinstance(values, Mapping):
            return values
        completed = dict(values)
        for name, field in cls.model_fields.items():
            if _has_bool(values.get(name)) and not _takes_bool(field.annotation):
                raise ValueError(f"{name} = {values[name]} must not be true or false (yes or no)")
            if isinstance(field.default, Settings) and isinstance(values.get(name), Mapping):
                completed[name] = {**field.default.model_dump(), **values[name]}
        return completed


def _has_bool(value: Any) -> bool:
    """Whether a value is true or false, or a list with one of them. YAML reads ``yes`` as true."""
    if isinstance(value, list | tuple):
        return any(isinstance(member, bool) for member in value)
    return isinstance(value, bool)


def _takes_bool(annotation: Any) -> bool:
    """Whether a field may be true or false. pydantic would take these for 1 and 0."""
    kinds = get_args(annotation)
    return annotation in (bool, Any) or any(_takes_bool(kind) for kind in kinds)


S = TypeVar("S", bound=Settings)

Recipe = str | Mapping[str, Any]
"""A recipe's name, its file, or its content."""

GivenSettings = str | Iterable[str] | Mapping[str, Any]
"""Settings that a caller gives: one text ``"epochs=2"``, several such texts, or a mapping such as
``{"epochs": 2, "network": {"width": 8}}``. A dot in a key reaches into a group."""

_RECIPES = files("poscon") / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes that come with poscon."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _RECIPES.iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_text(recipe: str) -> str:
    """The text of a recipe, by name or from a file.

    Raises:
        PosconError: it is neither.
    """
    if recipe in recipe_names():
        return (_RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    if os.path.isfile(recipe):
        try:
            return Path(recipe).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PosconError(f"recipe {recipe}: cannot be read ({error})") from error
    raise PosconError(
        f"recipe {recipe!r}: neither a file nor a known recipe"
        f"{nearest(recipe, recipe_names())}; known are {', '.join(recipe_names())}"
    )


def parse_yaml(text: str, *, where: str) -> Any:
    """What a YAML text says.

    Raises:
        PosconError: it is no YAML, has a key twice, is nested too deeply, or is too large with all
            that its aliases stand for.
    """
    try:
        content = yaml.load(text, Loader=_OnceLoader)  # a safe one
        size = _extent(content, {})
    except (yaml.YAMLError, ValueError) as error:  # a date may be none
        raise PosconError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise PosconError(f"{where}: not valid YAML (it is nested too deeply)") from error
    if size > _MOST_VALUES:
        raise PosconError(f"{where}: more than {_MOST_VALUES} values; are its aliases right?")
    return content


_MERGE = "tag:yaml.org,2002:merge"
"""What YAML calls the key ``<<``."""


class _OnceLoader(yaml.SafeLoader):
    """Reads YAML, and refuses a key that stands twice in a mapping. YAML forbids that."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        said: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name = self.construct_object(key)
            if (type(name), name) in said:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            said.add((type(name), name))
        return node


_MOST_VALUES = 100_000
"""In a YAML text. Aliases of aliases make billions of values of a few lines."""


def _extent(content: Any, known: dict[int, int]) -> int:
    """How many values a text says, each as often as aliases repeat it.

    Args:
        content: what it says.
        known: the extent of each part, by its ``id``.

    Raises:
        ValueError: a part holds itself.
    """
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = 0
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_extent(part, known) for part in parts)
    elif known[id(content)] == 0:
        raise ValueError("an alias stands for what it is in")
    return known[id(content)]


def load_recipe(recipe: Recipe) -> dict[str, Any]:
    """Read a recipe: by name, from a YAML file, or as it is.

    A recipe has a ``description`` and a section a command (``prepare``, ``pretrain``,
    ``finetune``), each a mapping of settings.

    Raises:
        PosconError: there is no such recipe, it cannot be read, or it has another form.
    """
    content: Any
    if isinstance(recipe, str):
        content = parse_yaml(recipe_text(recipe), where=f"recipe {recipe}")
    else:
        content, recipe = dict(recipe), "(given)"
    sections = ("description", "prepare", "pretrain", "finetune")
    if not isinstance(content, dict):
        raise PosconError(f"recipe {recipe}: expected the sections {', '.join(sections)}")
    for key in content:
        if key not in sections:
            raise PosconError(
                f"recipe {recipe}: unknown section {key!r}{nearest(str(key), sections)}; "
                f"a recipe has {', '.join(sections)}"
            )
        if key != "description" and not isinstance(content[key], dict | None):
            raise PosconError(f"recipe {recipe}: section {key!r} must hold settings, key: value")
    return content


def resolve(
    model: type[S],
    section: str,
    recipe: Recipe | None,
    overrides: GivenSettings = (),
    **arguments: Any,
) -> S:
    """Settings of one command: defaults, then the recipe, then ``--set``, then the arguments.

    Args:
        model: the settings' class.
        section: the recipe's section, named like the command.
        recipe: see :data:`Recipe`, or None for the defaults.
        overrides: settings that go before those of the recipe, see :data:`GivenSettings`.
        arguments: the command's own options; None means not given.

    Raises:
        PosconError: an unknown key or a value that does not fit, with the nearest known key.
    """
    stated = stated_values(section, recipe, overrides, **arguments)
    return validate_stated(model, stated, section, recipe)


def validate_stated(
    model: type[S], stated: Mapping[str, Any], section: str, recipe: Recipe | None
) -> S:
    """Build settings of what a caller states, as :func:`validate` does.

    Args:
        model: the settings' class.
        stated: see :func:`stated_values`.
        section: the recipe's section.
        recipe: the recipe. If what is wrong stands in its file, the message names the file.

    Raises:
        PosconError: a setting is unknown or has a wrong value.
    """
    try:
        return validate(model, stated)
    except WrongSetting as error:
        if isinstance(recipe, str):
            theirs: Any = load_recipe(recipe)[section] or {}
            ours: Any = stated
            for part in filter(None, error.key.split(".")):
                theirs = theirs.get(part) if isinstance(theirs, Mapping) else None
                ours = ours.get(part) if isinstance(ours, Mapping) else None
            if theirs is not None and theirs == ours:
                raise PosconError(f"recipe {recipe}, {section}: {error}") from error
        raise


def stated_values(
    section: str, recipe: Recipe | None, overrides: GivenSettings = (), **arguments: Any
) -> dict[str, Any]:
    """The settings that a caller states, nested. The arguments are those of :func:`resolve`.

    Raises:
        PosconError: a setting is stated twice, or the recipe has no such section.
    """
    overrides = _read_once(overrides)
    values: dict[str, Any] = {}
    if recipe is not None:
        content = load_recipe(recipe)
        if section not in content:
            raise PosconError(f"recipe {recipe}: has no section {section!r}, so it has no effect")
        values = dict(content[section] or {})
    values = apply_settings(values, overrides)
    stated = set(given_keys(overrides))
    for name, value in arguments.items():
        if value is None:
            continue
        if name in stated:
            raise PosconError(f"--set {name}: given as an option too; state it once")
        values[name] = value
    return values


def check_kept(values: Mapping[str, Any], kept: Settings, run: Path) -> None:
    """Refuse stated settings that are not those of a run that goes on. ``auto`` fits any.

    Args:
        values: see :func:`stated_values`.
        kept: every setting of the run.
        run: its folder, for the message.

    Raises:
        PosconError: a setting differs.
    """
    has = kept.model_dump(mode="json")
    # which settings have an effect depends on the method
    told = validate(type(kept), {"method": has["method"], **values}).model_dump(mode="json")
    for key in given_keys(values):
        ours, theirs = told, has
        for part in key.split("."):
            ours, theirs = ours[part], theirs[part]
        if ours not in ("auto", theirs):
            raise PosconError(
                f"setting {key} = {ours}: the run of {run} was begun with {theirs}; leave it out "
                "or start a new run"
            )


def apply_settings(values: Mapping[str, Any], given: GivenSettings) -> dict[str, Any]:
    """Settings with those of a caller over them.

    Raises:
        PosconError: what is given has another form.
    """
    given = _read_once(given)
    if not isinstance(given, Mapping):
        return override(values, given)
    keys = given_keys(given)
    for key in keys:
        if keys.count(key) > 1:
            raise PosconError(f"settings: {key} is given twice; give it once")
    for key, value in given.items():
        *groups, last = key.split(".")
        inner: dict[str, Any] = {last: value}
        for group in reversed(groups):
            inner = {group: inner}
        values = merged(values, inner)
    return dict(values)


def given_keys(given: GivenSettings) -> list[str]:
    """The keys that a caller gives, with their dots: ``["epochs", "network.width"]``."""
    given = _read_once(given)
    if not isinstance(given, Mapping):
        return [text.partition("=")[0].strip() for text in given]
    keys = []
    for key, value in given.items():
        inner = given_keys(value) if isinstance(value, Mapping) else []
        keys += [f"{key}.{rest}" for rest in inner] or [key]
    return keys


def _read_once(given: GivenSettings) -> tuple[str, ...] | Mapping[str, Any]:
    """Several texts, or a mapping with names as keys."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise PosconError(f"settings={given!r}: give a mapping, or texts such as 'epochs=2'")
    members = given if isinstance(given, Mapping) else tuple(given)
    for member in members:
        if not isinstance(member, str):
            raise PosconError(
                f"settings: {member!r} is no text; give a mapping such as {{'epochs': 2}}, or "
                "texts such as 'epochs=2'"
            )
    return members


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the second over the first."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Settings with ``key=value`` texts applied; a dot in a key reaches into a group.

    Raises:
        PosconError: a text of another form, or two of one key.
    """
    values = dict(values)
    said: list[str] = []
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise PosconError(f"--set {text}: write key=value")
        key, parsed = key.strip(), _parse_value(value, where=f"--set {text}")
        now = given_keys({key: parsed})
        for earlier in said:  # a group as a value would replace what was said of the group
            if any(f"{earlier}.".startswith(f"{name}.") for name in (key, *now)):
                raise PosconError(f"--set {text}: {earlier} is said twice; say it once")
        said += now
        *groups, last = key.split(".")
        target = values
        for group in groups:
            inner = target.get(group, {})
            if not isinstance(inner, Mapping):
                raise PosconError(f"--set {key}: {group!r} is a single value, not a group")
            target[group] = dict(inner)
            target = target[group]
        target[last] = parsed
    return values


def _parse_value(text: str, *, where: str) -> Any:
    value = parse_yaml(text, where=where)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def validate(model: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """Build settings, turning what pydantic reports into one line.

    Raises:
        PosconError: a setting is unknown or has a wrong value.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise wrong_setting(error, model, prefix) from error


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and their values."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
