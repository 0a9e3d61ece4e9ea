"""Write ``docs/reference/messages.md``: every refusal in the source, by kind.

    python docs/messages.py

The refusals are read from the source, so that the code is the only list of them. What a kind means
and what to do is in ``KINDS``; the first whose pattern fits a message is its kind.
"""

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "poscon"
PAGE = ROOT / "docs" / "reference" / "messages.md"
ERRORS = ("PosconError", "Fault", "NotWritten", "WrongSetting")


@dataclass(frozen=True)
class Kind:
    """A kind of refusal.

    Attributes:
        name: heading.
        pattern: regular expression; a message that it is found in is of this kind.
        meaning: what such a message means.
        action: what the reader can do.
    """

    name: str
    pattern: str
    meaning: str
    action: str


KINDS = (
    Kind(
        "Too little memory",
        r"of memory, (?:but|and this process)",
        "The scan would take more memory than is free. The system would have ended the command.",
        "End other programs, let fewer processes work at once (`--processes`), or use a machine "
        "with more memory.",
    ),
    Kind(
        "Somebody else is at work",
        r"is at work there",
        "Another command holds the folder that this one would write.",
        "Wait until it has ended. A lock goes with its process, so none has to be removed.",
    ),
    Kind(
        "Something is there already",
        r"exists already|is there already|there is a store already|exists and is|is there, but|"
        r"would replace|would go here|is the folder of the scans|made by another model|"
        r"is written already|other classes than|unfinished store with other|same file|"
        r"is a folder; name",
        "The output is there already, or it is not a place for results. Nothing was replaced.",
        "Choose another output. If the message names `--resume`, that adds what is missing.",
    ),
    Kind(
        "An option or setting without effect",
        r"no effect|leave --(?:channel|layout) out|without --engine",
        "The option says nothing here. poscon ignores no option, because that could hide a "
        "mistake.",
        "Leave it out, or change what it depends on.",
    ),
    Kind(
        "A plug-in of another package",
        r"of the package|the name is taken by|VALUE is not WHAT|both the same name",
        "An installed package offers a method or a layout that cannot be used.",
        "Correct or remove that package. [Add a method](../how-to/add-a-method.md) says what it "
        "must offer.",
    ),
    Kind(
        "The plans of nnU-Net cannot be used",
        r"configurations?\b|plans file of|plans of nnU-Net|no layer of|its strides|"
        r"its numbers of layers|poscon builds|"
        r"nnU-Net's 2-D network|library cannot build|is not nnU-Net's",
        "The file is no plans file of nnU-Net v2, or it plans another network than poscon trains.",
        "See the [steps](../how-to/export.md#nnunet). The file is nnU-Net's `nnUNetPlans.json`, "
        "with a configuration `2d`.",
    ),
    Kind(
        "Damaged, or of another version",
        r"damaged|truncated|file is empty|does not say|not those that were prepared|"
        r"schema version|no longer|is not what|not a store|checkpoint|not a poscon file|"
        r"has changed|changed since|cannot be read|holds other weights|unfinished store|"
        r"cannot read|but it is none|"
        r"no array",
        "A file is incomplete, was changed, or was written by another version of poscon.",
        "Fetch or make it again. A store is made again by `poscon prepare`, a run by its training.",
    ),
    Kind(
        "Not found",
        r"no such|not found|no data set|no case|no label map|no image|nothing to resume|"
        r"lists none|no split|none of the|"
        r"no run|neither|no folder|no store|not in|cannot be reached|no such|is no comparison|"
        r"no comparison|without its image|missing|has no key|names no|nothing found|no reference|"
        r"unknown|did you mean|is no WHAT|lists them|not installed|no Ray|no CUDA|no file",
        "A file, folder, name or program that the command needs is not there.",
        "Compare the name with what is there. For a misspelt name the message gives the nearest "
        "known one, or says which command lists them.",
    ),
    Kind(
        "A table cannot be used",
        r"no column|the column|has a column|fields, but",
        "The first line of a CSV file does not have the columns that are needed, or a row does not "
        "have as many fields. Commas, semicolons and tabs between fields are understood.",
        "Write the first line that the message shows, or correct the row.",
    ),
    Kind(
        "The scan or label map cannot be used",
        r"voxel|affine|header|mask|segment|printable text|no path of a file|class NAME|'dataset'|"
        r"grid|shape|dimension|label value|values must be whole|one number per|"
        r"lies up to|does not lie|not UTF-8|format poscon|colour|empty|is annotated|is labelled|"
        r"two files|label map|regions|whole number|is not read|more file|same name|"
        r"same values|value 0|"
        r"'ignore'|volumes?\b|channel|slice|plane|spacing|carry the geometry|modalit|"
        r"structures\b|contour|\bSEG\b|of the series|outside the series",
        "The content or the header of a file does not allow a right answer.",
        "Correct the file, or leave it out. `poscon inspect` shows what a store holds.",
    ),
    Kind(
        "Training cannot go on",
        r"loss is|cannot compile|no speed|learn from|learnt from|tested on|self-training|"
        r"quarter turn|no value to|not finite|a run of poscon|what is finished|"
        r"seen in training|started with|keeps apart|labelled subject|labelled|draw|"
        r"pre-train|fine-tun|start of|architecture|decoder|tensors|network|parts",
        "What was chosen cannot be trained, or would make a measurement dishonest.",
        "Change the cases or the settings that the message names.",
    ),
    Kind(
        "The system cannot do it",
        r"cannot be written|disk full|memory|killed|process|GPU|Ray|URL|fsspec|request|torchrun|"
        r"stored|not done|cannot begin",
        "The machine, the disk or the network refused something.",
        "Make room, or choose another place. What was finished is kept; run the command again.",
    ),
    Kind(
        "A value that is not allowed",
        r"must be|must hold|written as|one reference for|in a folder of this machine|plan PLAN|"
        r"setting KEY|settings: |recipe RECIPE|WHERE: ERROR|said twice|name another|"
        r"write |give |expected|cannot be|not valid|is no text|say |use |choose|too|"
        r"holds predictions|"
        r"in one split|in UTF-8|once more|fields, but|poscon reads|"
        r"was begun with|at least|at most|twice|needs|more than|differ|fewer|only|has to|not a ",
        "An argument, setting, recipe, plan or list has a value that cannot be used.",
        "Write it as the message says. `poscon COMMAND --help` and the page of "
        "[commands](commands.md) list what is allowed.",
    ),
)


def collect(source: Path = SOURCE) -> dict[str, list[str]]:
    """Every message of a refusal in the source, by module; what is filled in is in capitals."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(source.rglob("*.py")):
        module = file.relative_to(source).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS:
                text = template(node.args[0]) if node.args else None
                if text is not None and text not in found[module]:
                    found[module].append(text)
    return {module: texts for module, texts in found.items() if texts}


def template(node: ast.expr) -> str | None:
    """The text of a message; None where it is passed on from elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = (template(node.left) or "...", template(node.right) or "...")
        return "".join(parts)
    if not isinstance(node, ast.JoinedStr):
        return None
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
        else:
            assert isinstance(part, ast.FormattedValue)
            text += placeholder(part.value)
    return text if re.search("[a-z]{2}", text) else None


def placeholder(value: ast.expr) -> str:
    """``{self.path}`` -> ``PATH``; what has no name is ``...``."""
    if isinstance(value, ast.Call) and value.args:
        return placeholder(value.args[0])
    name = getattr(value, "attr", None) or getattr(value, "id", None)
    return name.strip("_").upper() if name else "..."


def kind_of(message: str) -> Kind | None:
    """The kind of a message, or None if there is none for it."""
    return next((kind for kind in KINDS if re.search(kind.pattern, message)), None)


def page(messages: dict[str, list[str]]) -> str:
    """The page, as text.

    Raises:
        ValueError: a message is of no kind.
    """
    by_kind: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for module, texts in messages.items():
        for text in texts:
            kind = kind_of(text)
            if kind is None:
                raise ValueError(f"{module}: no kind for {text!r}; add one to docs/messages.py")
            by_kind[kind.name].append((text, module))
    lines = [
        "# Messages",
        "",
        "Every refusal of poscon. On the command line it is one line, `error: ...`, and exit code",
        "2. In Python it is a `poscon.PosconError`. Words in capitals stand for what is filled in.",
        "",
        "This page is written by `python docs/messages.py` from the source. A test fails when it",
        "is out of date.",
        "",
        "Where some of many scans cannot be used, the others are done: `predict` and `evaluate`",
        "name each of the former, and end with exit code 2 and a line that has the first of them",
        "and their number.",
    ]
    for kind in KINDS:
        if not by_kind[kind.name]:
            continue
        lines += ["", f"## {kind.name}", "", *wrap(f"**Meaning.** {kind.meaning}", 100), ""]
        lines += [*wrap(f"**What to do.** {kind.action}", 100), ""]
        lines += ["| message | from |", "|---|---|"]
        lines += [f"| {cell(text)} | `{module}` |" for text, module in sorted(by_kind[kind.name])]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A message as a cell of a table."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return re.sub(r"([<>*_\[\]`])", r"\\\1", plain)


if __name__ == "__main__":
    PAGE.write_text(page(collect()), encoding="utf-8")
