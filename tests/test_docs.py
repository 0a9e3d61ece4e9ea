"""The documentation holds together: links lead somewhere, commands and options exist."""

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from poscon.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=str,
)
LONGEST = 100
"""Characters of a line, except tables, code and what cannot be broken."""

LINK = re.compile(r"\]\(([^()\s]+)\)")
COMMAND = re.compile(r"(?<![\w/.*-])(?<!from )poscon ([a-z][a-z-]*)(?![\w.])")
SCRIPT = re.compile(r"\bpython ((?:benchmarks|experiments|reliability)/\w+\.py)")

page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Runs of lines with whether they are code, fenced or indented after a blank line."""
    fenced = indented = False
    before = ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
            yield True, ""
            continue
        if not fenced and line.strip():
            indented = line.startswith("    ") and (indented or not before.strip())
        yield fenced or indented, line
        before = line


def prose(text: str) -> str:
    """The text without its code."""
    lines = "\n".join(line for code, line in blocks(text) if not code)
    return re.sub(r"`[^`]*`", "`code`", lines)


def code(text: str) -> list[str]:
    """Lines of code, a continued line as one, and spans of code in the prose."""
    lines = "\n".join(line if is_code else "" for is_code, line in blocks(text))
    whole = re.sub(r"\s*\\\n\s*", " ", lines).splitlines()
    spans = "\n".join(line for is_code, line in blocks(text) if not is_code)
    return [
        *(line.strip() for line in whole if line.strip()),
        *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", spans)),
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for is_code, line in blocks(text):
        heading = re.match(r"#+ +(.*)", line)
        if is_code or not heading:
            continue
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
        name = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def commands() -> dict[str, set[str]]:
    """The options of every command."""
    return {
        name: {"--help"}.union(
            *(
                (*parameter.opts, *parameter.secondary_opts)
                for parameter in command.params
                if parameter.param_type_name == "option"
            )
        )
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }


COMMANDS = commands()


def unknown_options(line: str) -> list[str]:
    """What is no option of its command, in every ``poscon COMMAND ...`` of a line of shell."""
    wrong = []
    for found in COMMAND.finditer(line):
        if found[1] not in COMMANDS:
            continue
        rest = re.split(r"\s#\s|[|;&>]|\$\(", line[found.end() :])[0].replace("[", " ")
        try:
            words = shlex.split(rest.replace("]", " "))
        except ValueError:  # a quotation mark of prose
            words = rest.split()
        for word in words:
            name = word.split("=")[0].rstrip(",.;:)")
            if re.match(r"--?[a-zA-Z]", name) and name not in COMMANDS[found[1]]:
                wrong.append(f"poscon {found[1]} {name}")
    return wrong


@page
def test_every_link_and_anchor_resolves(page: Path) -> None:
    wrong = []
    for target in LINK.findall(prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file.read_text())):
            wrong.append(f"{target}: no such heading")
    assert not wrong


@page
def test_every_command_exists(page: Path) -> None:
    named = {name for line in code(page.read_text()) for name in COMMAND.findall(line)}
    assert named <= COMMANDS.keys()


@page
def test_every_option_of_a_command_exists(page: Path) -> None:
    assert not [wrong for line in code(page.read_text()) for wrong in unknown_options(line)]


@page
def test_every_script_exists(page: Path) -> None:
    """Except those of an earlier commit, where the page says so."""
    text = page.read_text()
    missing = {
        script
        for line in code(text)
        for script in SCRIPT.findall(line)
        if not (ROOT / script).is_file() and f"by its `{script}`" not in text
    }
    assert not missing


@page
def test_no_line_is_too_long(page: Path) -> None:
    long = [
        line
        for is_code, line in blocks(page.read_text())
        if len(line) > LONGEST
        and not is_code
        and not line.startswith(("|", "!["))
        and not re.fullmatch(r"\s*([-*] |\d+\. )?\S+", line)
    ]
    assert not long


def test_readme_has_the_two_commands_that_do_everything() -> None:
    lines = code((ROOT / "README.md").read_text())
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert any(line.startswith(f"make {target}") for line in lines)
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_house_of_the_pages_is_the_one_in_the_source() -> None:
    """Every room of CONTRIBUTING's map exists, in the order that imports are held to."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = next(line for line in code(re.sub(r"\n\s+->", " ->", text)) if " -> " in line)
    rooms = re.split(r" -> |, ", drawn)
    tree = ast.parse((ROOT / "tests" / "test_imports.py").read_text())
    (order,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    ]
    held = [n.value for n in ast.walk(order) if isinstance(n, ast.Constant)]
    assert set(rooms) <= set(held)
    places = [held.index(room) for room in rooms if room in held]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("poscon pretrain STORE RUN --exclude test.txt -s batch=4", []),
        ("poscon pretrain STORE RUN --exlude test.txt", ["poscon pretrain --exlude"]),
        ("poscon predict RUN a b && poscon demo --labelled 2", ["poscon demo --labelled"]),
        ("poscon demo OUT --seed 0    # and --else", []),
        ("poscon finetune STORE RUN [--init RUN | --wrong]", []),
    ],
)
def test_unknown_options_are_found(line: str, wrong: list[str]) -> None:
    assert unknown_options(line) == wrong


def test_anchors_are_those_of_github() -> None:
    text = "# The `plan`: a, b\n\n    # code\n\n## Twice\n\n## Twice\n\n## [A link](x.md) & more\n"
    assert anchors(text) == {"the-plan-a-b", "twice", "twice-1", "a-link--more"}


def test_code_is_told_from_prose() -> None:
    text = "See `poscon demo` [here](a.md).\n\n    poscon predict \\\n        RUN a b\n\nEnd.\n"
    assert code(text) == ["poscon predict RUN a b", "poscon demo"]
    assert LINK.findall(prose(text)) == ["a.md"]
    assert "predict" not in prose(text)
