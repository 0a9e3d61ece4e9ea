"""What ``make docs`` adds to MkDocs: the order of the pages, and the pages that are made from code.

MkDocs calls the functions ``on_...``. No page is named here: the order is that of
``docs/README.md``, so a new page needs a line there and nothing else.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import poscon
from poscon.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTSIDE = {name: name.lower() for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
"""Pages beside ``docs/``, with their place in the site."""
FROM_CODE = {
    "reference/help.md": "Help of every command",
    "reference/functions.md": "Functions in full",
}
"""Pages that are made from the code, in the section of ``reference/commands.md``."""

SECTION = re.compile(r"\*\*(.+)\*\*")
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
ITEM = re.compile(r" {0,3}([-*]|1\.) ")
"""What begins a list, also in the middle of a paragraph."""


def navigation(index: str) -> list[dict[str, Any]]:
    """The sections of the index, each with its pages; a page ``README.md`` brings its folder."""
    sections: dict[str, list[Any]] = {}
    links = {target: site_path(DOCS / "README.md", target) for _, target in LINK.findall(index)}
    name = ""
    for line in index.splitlines():
        heading = SECTION.fullmatch(line)
        if heading:
            name = heading[1]
            sections[name] = []
        link = LINK.search(line)
        if name and line.startswith("- ") and link:
            sections[name] += entries(link[1], links[link[2]] or link[2], {*links.values()})
    return [{"Home": "README.md"}, *({name: pages} for name, pages in sections.items())]


def entries(title: str, path: str, listed: set[str | None]) -> list[Any]:
    """A page of the navigation; with the pages of its folder, or from the code, beside it.

    Args:
        title: name of the page.
        path: its path in the site.
        listed: pages that the index lists itself.
    """
    folder, file = posixpath.split(path)
    if file == "README.md":
        others = [page for page in pages_of(folder) if page not in listed]
        return [{title: [path, *others] if others else path}]
    if path == "reference/commands.md":
        return [{title: path}, *({name: made} for made, name in FROM_CODE.items())]
    return [{title: path}]


def pages_of(folder: str) -> list[str]:
    """The other pages of a folder: those that its ``README.md`` links to, then the rest."""
    there = {path.name for path in (DOCS / folder).glob("*.md")} - {"README.md"}
    linked = [target for _, target in LINK.findall((DOCS / folder / "README.md").read_text())]
    first = [name for name in dict.fromkeys(linked) if name in there]
    return [f"{folder}/{name}" for name in [*first, *sorted(there - set(first))]]


def site_path(source: Path, target: str) -> str | None:
    """Where a link of a file of the repository leads in the site; None: not into the site."""
    found = (source.parent / target).resolve()
    if found.is_relative_to(DOCS):
        if found.is_dir():
            found /= "README.md"
        if found.suffix == ".ipynb":
            found = found.with_suffix(".md")
        return found.relative_to(DOCS).as_posix()
    return OUTSIDE.get(found.relative_to(ROOT).as_posix())


def with_links_of_the_site(markdown: str, source: Path, place: str) -> str:
    """Links between files of the repository, as links between pages of the site.

    A file that is no page of the site is named instead.

    Args:
        markdown: text of the page.
        source: file that the page is written in.
        place: path of the page in the site.
    """

    def changed(link: re.Match[str]) -> str:
        text, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, hash_, anchor = target.partition("#")
        led = site_path(source, path)
        if led is None:
            file = (source.parent / path).resolve().relative_to(ROOT).as_posix()
            return text if text.strip("`") == file else f"{text} (`{file}`)"
        return f"[{text}]({posixpath.relpath(led, posixpath.dirname(place))}{hash_}{anchor})"

    return LINK.sub(changed, markdown)


def with_room_for_lists(markdown: str) -> str:
    """An empty line before every list. GitHub needs none; Python-Markdown does."""
    return "\n".join(_with_room_for_lists(markdown.split("\n")))


def _with_room_for_lists(lines: list[str]) -> Iterator[str]:
    fenced = listed = False
    before = ""
    for line in lines:
        fenced ^= line.startswith("```")
        item = not fenced and ITEM.match(line) is not None
        if item and not listed and before.strip():
            yield ""
        if item:
            listed = True
        elif not before.strip() and not line.startswith("  "):
            listed = False
        yield line
        before = line


def notebook_page(notebook: str) -> str:
    """The cells of a notebook, as a page."""
    cells = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        cells.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(cells) + "\n"


def help_page() -> str:
    """Every command with its arguments and options, as ``--help`` says them."""
    lines = [
        "# Help of every command",
        "",
        "This page is made from the program: it is what `poscon COMMAND --help` says. The page",
        "[Commands](commands.md) says more.",
    ]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        places = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        named = (p.name.upper() if p.required else f"[{p.name.upper()}]" for p in places)
        lines += ["", f"## {name}", "", *(command.help or "").splitlines(), ""]
        lines += [f"    {' '.join(['poscon', name, *named])}{' [OPTIONS]' if options else ''}"]
        lines += ["", "    " + command.epilog, ""]
        if places or options:
            lines += ["| argument or option | |", "|---|---|"]
        lines += [f"| `{p.name.upper()}` | {cell(p.help)} |" for p in places]
        for option in options:
            value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
            names = ", ".join([*option.opts, *option.secondary_opts])
            help_text = option.help + " Required." * option.required
            lines += [f"| {cell(names + value)} | {cell(help_text)} |"]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return re.sub(r"([|<>*_\[\]`])", r"\\\1", " ".join(text.split()))


def functions_page() -> str:
    """The public functions; mkdocstrings fills in their signatures and docstrings."""
    lines = [
        "# Functions in full",
        "",
        "This page is made from the source: signature and docstring of every public function. How",
        "to use them is on the page [Python API](python-api.md).",
    ]
    for name in poscon.__all__:
        if not name.startswith("__"):
            lines += ["", f"::: poscon.{name}"]
    return "\n".join(lines) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by MkDocs once it has read ``mkdocs.yml``."""
    config.nav = navigation((DOCS / "README.md").read_text(encoding="utf-8"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs with the files of ``docs/``: adds the pages that are not there."""
    made = {
        "reference/help.md": help_page(),
        "reference/functions.md": functions_page(),
        **{place: (ROOT / name).read_text("utf-8") for name, place in OUTSIDE.items()},
        **{
            notebook.relative_to(DOCS).with_suffix(".md").as_posix(): notebook_page(
                notebook.read_text("utf-8")
            )
            for notebook in DOCS.rglob("*.ipynb")
        },
    }
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Called by MkDocs with the HTML of every page: what Sphinx would make a link is plain code."""
    return re.sub(r":(func|class|mod|meth|attr):(?=<code>)", "", html)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    place = page.file.src_uri
    beside = {place: name for name, place in OUTSIDE.items()}
    source = ROOT / beside[place] if place in beside else DOCS / place
    return with_room_for_lists(with_links_of_the_site(markdown, source, place))
