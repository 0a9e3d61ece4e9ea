"""What installed packages add to poscon, by entry points.

A package names its objects in its ``pyproject.toml``, under the group of their kind::

    [project.entry-points."poscon.pretext"]
    my-method = "my_package.my_module:MyMethod"

See docs/how-to/add-a-method.md.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from poscon.errors import PosconError
from poscon.wrong_settings import nearest

PRETEXT = "poscon.pretext"
FINETUNING = "poscon.finetuning"
NETWORKS = "poscon.networks"
LAYOUTS = "poscon.layouts"
SUGGESTION = "poscon.suggestion"
KINDS = {
    PRETEXT: "pre-training method",
    FINETUNING: "fine-tuning method",
    NETWORKS: "architecture",
    LAYOUTS: "layout",
    SUGGESTION: "strategy",
}
"""Every group of entry points, and what its members are called in messages."""
OWN = "poscon"
"""Where a member comes from that is no plug-in."""


def names(group: str, own: Iterable[str]) -> dict[str, str]:
    """The names of a group, and the package that each comes from.

    Args:
        group: one of :data:`KINDS`.
        own: the names of poscon's own members; they come first.

    Raises:
        PosconError: two packages, or a package and poscon, have the same name.
    """
    found = dict.fromkeys(own, OWN)
    for point in _points(group):
        if point.name in found:
            raise PosconError(
                f"{_called(point)}: the name is taken by {found[point.name]}; rename it there, or "
                "remove the package"
            )
        found[point.name] = _package(point)
    return found


def find(
    group: str,
    name: str,
    own: Iterable[str] = (),
    *,
    subclass_of: type | None = None,
    instance_of: type | None = None,
) -> Any:
    """What a package registers under a name.

    Args:
        group: one of :data:`KINDS`.
        name: the name of the entry point.
        own: the names of poscon's own members.
        subclass_of: it must be a subclass of this class; None: not checked.
        instance_of: it must be an object of this class; None: not checked.

    Raises:
        PosconError: no package has the name, two have it, it cannot be imported, or it is something
            else.
    """
    known = names(group, own)
    for point in _points(group):
        if point.name == name:
            found = _load(point)
            for wanted, fits, what in (
                (subclass_of, _is_subclass, "a subclass"),
                (instance_of, isinstance, "an object"),
            ):
                if wanted is not None and not fits(found, wanted):
                    raise PosconError(
                        f"{_called(point)}: {point.value} is not {what} of "
                        f"{wanted.__module__}.{wanted.__name__}"
                    )
            return found
    raise PosconError(
        f"{KINDS[group]} {name!r} is unknown{nearest(name.lower(), known)}; "
        f"known are {', '.join(known)}"
    )


def release(group: str, name: str) -> str | None:
    """Package and version that a member comes from, as ``near-is-like 0.1``; None: poscon's own.

    Args:
        group: one of :data:`KINDS`.
        name: the name of the member.
    """
    for point in _points(group):
        if point.name == name and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """Sorted, as the order of installed packages is that of the file system."""
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))))


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else point.dist.name


def _called(point: EntryPoint) -> str:
    return f"{KINDS[point.group]} {point.name!r} of the package {_package(point)}"


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever a foreign module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PosconError(
            f"{_called(point)}: {point.value} cannot be imported ({reason})"
        ) from error


def _is_subclass(found: Any, wanted: type) -> bool:
    return isinstance(found, type) and issubclass(found, wanted)
