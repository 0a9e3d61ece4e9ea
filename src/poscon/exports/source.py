"""Source code of this package as one file that does not need the package."""

import ast
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType

from poscon.version import __version__

HEADER = (
    f"# Written by poscon {__version__}, from its own source.\n"
    "# SPDX-License-Identifier: Apache-2.0\n"
)


def one_file(
    summary: str, parts: Sequence[tuple[ModuleType, Collection[str] | None]], end: str = ""
) -> str:
    """The source of modules, one after the other, without what they import from this package.

    Args:
        summary: the docstring of the file.
        parts: modules with the names that are taken from them; None: all. They come in an order
            in which each finds what it needs.
        end: source to put at the end; its imports too go to the beginning.

    Returns:
        The source. What it imports comes first.
    """
    imports: set[str] = set()
    bodies = []
    sources = [
        (Path(str(module.__file__)).read_text(encoding="utf-8"), names) for module, names in parts
    ]
    for source, names in [*sources, (end, None)]:
        body: list[ast.stmt] = []
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if not _is_ours(node):
                    imports.add(ast.unparse(node))
            elif not _is_text(node) and (names is None or _names(node) & set(names)):
                body.append(node)
        bodies.append("\n\n\n".join(_text(source, node) for node in body))
    first = "from __future__ import annotations"
    lines = "\n".join([first, *sorted(imports - {first})])
    return f'{HEADER}"""{summary}"""\n\n{lines}\n\n\n' + "\n\n\n".join(filter(None, bodies)) + "\n"


def _is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    modules = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return any(module.split(".")[0] == "poscon" for module in modules)


def _is_text(node: ast.stmt) -> bool:
    """Whether it is a docstring: of the module, or of a constant before it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {
        name.id
        for t in targets
        if t is not None
        for name in ast.walk(t)
        if isinstance(name, ast.Name)
    }


def _text(source: str, node: ast.stmt) -> str:
    """The lines of a statement, with its decorators."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])
