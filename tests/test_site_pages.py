"""The site: it builds without a warning, no page is missing, nothing is fetched from elsewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import pytest
import typer
from docs_scripts import load

import poscon
from poscon.cli import app

pytest.importorskip("mkdocs", reason="needs the extra docs")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LOADED = re.compile(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?(\S+)")
ABOUT = ("CONTRIBUTING.md", "contributing.md")
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
QUICK = {r"epochs=\d+": "epochs=1", r"iterations=\d+": "iterations=2"}
"""What makes a notebook quick."""


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return load("site_pages")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return folder


def places(navigation: list[Any]) -> Iterator[str]:
    """Every page of a navigation."""
    for entry in navigation:
        if isinstance(entry, str):
            yield entry
        else:
            (value,) = entry.values()
            yield from [value] if isinstance(value, str) else places(value)


def test_no_page_is_missing_from_the_navigation(pages: ModuleType) -> None:
    """A new page needs a line in docs/README.md, or in the README.md of its folder."""
    shown = list(places(pages.navigation((DOCS / "README.md").read_text())))
    assert len(shown) == len(set(shown))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    there |= {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in NOTEBOOKS}
    assert set(shown) == there | set(pages.FROM_CODE) | set(pages.OUTSIDE.values())


def test_every_page_is_built(pages: ModuleType, site: Path) -> None:
    for place in places(pages.navigation((DOCS / "README.md").read_text())):
        file = place.replace("README.md", "index.md")
        assert (site / file).with_suffix(".html").is_file()
    assert not list(site.rglob("*.py"))


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?(\S+)", page.read_text()
        )
        assert loaded
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text())


def test_the_commands_are_those_of_the_program(site: Path) -> None:
    html = (site / "reference" / "help.html").read_text()
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f'<h2 id="{name}">' in html
        section = html.split(f'<h2 id="{name}">')[1].split("<h2")[0]
        for parameter in command.params:
            shown = (
                parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
            )
            assert re.search(rf"<td>(<code>)?{re.escape(shown)}", section), (name, shown)


def test_the_functions_are_those_of_the_package(site: Path) -> None:
    html = (site / "reference" / "functions.html").read_text()
    for name in set(poscon.__all__) - {"__version__"}:
        assert f'id="poscon.{name}"' in html
    assert ":func:" not in html


def test_lists_begin_where_github_begins_them(pages: ModuleType) -> None:
    text = (
        "A line:\n- one\n  more\n- two\n\nA year,\n2. no list.\n\n```\nx\n- code\n```\n1. first\n"
    )
    assert pages.with_room_for_lists(text) == text.replace("line:\n", "line:\n\n").replace(
        "```\n1.", "```\n\n1."
    )


@pytest.mark.parametrize(
    ("source", "place", "before", "after"),
    [
        ("docs/README.md", "README.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        (
            "CONTRIBUTING.md",
            "contributing.md",
            "[a](docs/methods/pcl.md#x)",
            "[a](methods/pcl.md#x)",
        ),
        (*ABOUT, "[a](docs/decisions/)", "[a](decisions/README.md)"),
        ("docs/results/speed.md", "results/speed.md", "[A](../../Makefile).", "A (`Makefile`)."),
        (*ABOUT, "[LICENSE](LICENSE)", "LICENSE"),
        ("docs/README.md", "README.md", "[t](tutorials/x.ipynb)", "[t](tutorials/x.md)"),
        ("docs/README.md", "README.md", "[a](#b) [c](https://d.org)", "[a](#b) [c](https://d.org)"),
        ("docs/methods/pcl.md", "methods/pcl.md", "![p](../a.png)", "![p](../a.png)"),
    ],
)
def test_links_lead_where_they_did(
    pages: ModuleType, source: str, place: str, before: str, after: str
) -> None:
    assert pages.with_links_of_the_site(before, ROOT / source, place) == after


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_picture: None
) -> None:
    """Its cells one after the other, with fewer steps. It is stored without what came out."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    for pattern, quick in QUICK.items():
        code, changed = re.subn(pattern, quick, code)
        assert changed
    exec(compile(code, notebook, "exec"), {"__name__": "__main__"})
    assert list(tmp_path.glob("*.png"))


def test_the_citation_names_this_version() -> None:
    assert f"version: {poscon.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {poscon.__version__} " in (ROOT / "CHANGELOG.md").read_text()
