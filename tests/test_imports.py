"""The house has one way through it: no module imports one of a room further on."""

import ast
from pathlib import Path

import pytest

import poscon

SOURCE = Path(poscon.__file__).parent

ROOMS = [
    *(
        "version",
        "environment",
        "errors",
        "files",
        "csv_tables",
        "memory",
        "progress",
        "seeds",
        "stops",
    ),
    *("wrong_settings", "settings", "arguments", "plugins"),
    *("distributed", "executors", "metrics", "statistics"),
    *("predictions", "volumes", "positions", "alignment", "store", "leakage", "evaluation"),
    *("step", "views", "networks", "methods"),
    *("pretext", "finetuning"),
    *(
        "training",
        "scan_preparation",
        "models",
        "prediction_jobs",
        "suggestion",
        "pictures",
        "viewer",
        "exports",
        "commands",
        "comparison",
        "reports",
    ),
    *("listings", "cli", "__init__", "__main__"),
]
"""From left to right. No room imports from a room to its right."""


def room_of(module: str) -> str:
    """``poscon.store.remote`` -> ``store``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def modules() -> list[str]:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found.append(".".join(["poscon", *names]))
    return found


def path_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Every poscon module that is imported anywhere in a file, inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            base = node.module or ""
            for alias in node.names:  # ``from poscon import settings`` is a module, or a name
                full = f"{base}.{alias.name}"
                found.append(full if path_of(full).is_file() else base)
    return [name for name in found if name.split(".")[0] == "poscon"]


def test_every_room_has_its_place() -> None:
    assert {room_of(name) for name in modules()} == set(ROOMS)


@pytest.mark.parametrize("module", modules())
def test_nothing_is_imported_from_a_room_further_on(module: str) -> None:
    here = ROOMS.index(room_of(module))
    wrong = [
        name
        for name in imports(ast.parse(path_of(module).read_text()))
        if ROOMS.index(room_of(name)) > here
    ]
    assert not wrong, f"{module} imports {wrong}"


def test_lazy_imports_count() -> None:
    tree = ast.parse("def f():\n    from poscon import cli\n    import poscon.commands.demo\n")
    assert imports(tree) == ["poscon.cli", "poscon.commands.demo"]
