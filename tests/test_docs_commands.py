"""Every command of the pages: it parses, and it runs on the phantom or has a reason not to."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from test_docs import PAGES, ROOT, blocks

import poscon as api
from poscon.cli import app
from poscon.settings import resolve
from poscon.training.finetune_settings import FinetuneSettings
from poscon.training.pretrain_settings import PretrainSettings

PROGRAMS = r"(\$ )?(poscon|python|make|pip|ray|aws|torchrun|git|ls|\.venv/bin/\S+) "
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

ELSEWHERE = {
    "docs/how-to/one-afternoon.md": "tests/test_one_afternoon.py",
    "docs/how-to/add-a-method.md": "tests/test_plugins.py",
}
"""Pages whose commands another test runs in their order."""

REASONS: dict[str, tuple[str, str]] = {
    r"make |\.venv/": ("it sets the machine up, or is the test itself", "Makefile"),
    r"pip ": ("it changes the environment", "pyproject.toml"),
    r"git |ls ": ("it needs the history, or the Decathlon's folder", "docs/getting-started.md"),
    r"ray |.*--engine ray": ("it needs a cluster", "tests/comparison/test_ray.py"),
    r"aws |.*s3://": ("it needs an object store", "tests/store/test_remote.py"),
    r"torchrun ": ("it needs several processes", "tests/test_distributed.py"),
    r"python (benchmarks|experiments|reliability)/": ("it measures for minutes to days", __file__),
    r"python -m monai": ("it needs an export", "tests/exports/test_monai.py"),
    r"python -": ("it is a program inside a page", "docs/explanation/scale.md"),
    r".*--device cuda": ("it needs a GPU", "tests/test_gpu.py"),
    r"poscon demo": ("it takes minutes", "tests/commands/test_demo.py"),
    r"poscon view": ("it serves until Ctrl-C", "tests/commands/test_view.py"),
    r"poscon bench": ("it measures", "tests/commands/test_bench.py"),
    r"poscon compare (?!.*--dry-run)": ("it takes hours", "tests/comparison/test_compare.py"),
    r"poscon export .*onnx": ("it takes long", "tests/exports/test_onnx.py"),
    r"poscon export .*monai": ("it takes long", "tests/exports/test_monai.py"),
    r"poscon export .*torch": ("it takes long", "tests/exports/test_torch.py"),
    r"poscon (export|pretrain) .*nnunet": (
        "it needs plans",
        "tests/commands/test_nnunet_commands.py",
    ),
    r"poscon .*(--to seg|--series)": (
        "it needs DICOM series",
        "tests/commands/test_dicom_commands.py",
    ),
    r"poscon .*--logger mlflow": ("it needs MLflow", "tests/training/test_loggers.py"),
    r"poscon .*--resume": ("it needs an interrupted run", "tests/commands/test_pretrain.py"),
    r"poscon .*position[= ]learned": ("it needs an aligned store", "tests/commands/test_align.py"),
    r"poscon finetune STORE RUN --init FILE": (
        "it needs a file of weights",
        "tests/commands/test_init_file.py",
    ),
}
"""Commands that are not run here: why, and the file that runs or states the like of them."""

TINY = {"network.width": "4", "network.levels": "2", "size": "32", "batch": "16"}
QUICK = {
    "prepare": {"spacing": "6", "processes": "1"},
    "pretrain": {"epochs": "1"},
    "finetune": {"iterations": "2"},
}
"""Options that make a command quick, in place of those that the page gives."""
SMALLER = {"network.width": "8", "batch": "16", "grad_cache_chunk": "8"}
"""Settings of the pages that are made smaller."""


def shell_lines(text: str) -> list[str]:
    """What is typed into a shell, a continued line as one, without comments and redirections."""
    shown = "\n".join(line if is_code else "" for is_code, line in blocks(text))
    lines = (line.strip() for line in re.sub(r"\s*\\\n\s*", " ", shown).splitlines())
    typed = (line for line in lines if re.match(PROGRAMS, line + " "))
    return [re.split(r"\s#\s|\s[|>]\s|\s<<", line)[0].strip() for line in typed]


def lines_of(pages: list[Path]) -> dict[str, str]:
    """Every line with the first page that has it."""
    found: dict[str, str] = {}
    for page in pages:
        for line in shell_lines(page.read_text(encoding="utf-8")):
            found.setdefault(line, page.relative_to(ROOT).as_posix())
    return found


LINES = lines_of(PAGES)
POSCON = [line for line in LINES if line.startswith("poscon ")]
REFUSED = [line.removeprefix("$ ") for line in LINES if line.startswith("$ poscon ")]


def parsed(line: str) -> Any:
    """The context of the command line, in which its arguments are converted and checked."""
    line = re.sub(r"\$\w+|\bN\b", "1", line)
    name, *words = shlex.split(re.sub(r"\[(?=-)|(?<=[\w}])\](?!')", " ", line))[1:]
    return COMMANDS[name].make_context(name, words)


def given(context: Any) -> dict[str, Any]:
    """The options that a command line states."""
    return {
        parameter.name: context.params[parameter.name]
        for parameter in context.command.params
        if parameter.param_type_name == "option"
        and context.get_parameter_source(parameter.name).name == "COMMANDLINE"
    }


@pytest.mark.parametrize("line", POSCON)
def test_the_arguments_of_every_command_are_right(line: str) -> None:
    context = parsed(line)
    settings = context.params.get("settings")
    kinds: dict[str, Any] = {"pretrain": PretrainSettings, "finetune": FinetuneSettings}
    readable = LINES[line] not in ELSEWHERE and "PLANS" not in line  # no plug-in, no such file
    if settings and context.info_name in kinds and readable:
        options = {
            name: context.params[name]
            for name in ("method", "epochs", "iterations", "seed")
            if context.params.get(name) is not None
        }
        recipe = context.params["recipe"]
        resolve(kinds[context.info_name], context.info_name, recipe, settings, **options)


@pytest.mark.parametrize("line", [line for line in LINES if re.match(r"python \w+/", line)])
def test_the_options_of_every_script_are_there(line: str) -> None:
    script = ROOT / line.split()[1]
    if not script.is_file():  # of an earlier commit; tests/test_docs.py asks that the page says so
        return
    room = [path for path in script.parent.glob("*.py") if path.stem in script.read_text()]
    source = "\n".join(path.read_text() for path in [script, *room])
    for option in re.findall(r"(?<!\S)--[a-z-]+", line):
        assert f'"{option}"' in source


def reasons(line: str) -> list[str]:
    return [pattern for pattern in REASONS if re.match(pattern, line)]


def test_what_is_not_run_has_a_reason() -> None:
    unknown = {
        line: page
        for line, page in LINES.items()
        if not line.removeprefix("$ ").startswith("poscon ")
        and page not in ELSEWHERE
        and not reasons(line)
    }
    assert not unknown, "add a reason to REASONS"


def test_every_reason_is_needed_and_stands() -> None:
    assert set(REASONS) == {pattern for line in LINES for pattern in reasons(line)[:1]}
    for _, file in REASONS.values():
        assert (ROOT / file).is_file()
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()


def kind(line: str) -> tuple[object, ...]:
    """What tells a command from another that does the same with other names and numbers."""
    context = parsed(line)
    values = {"method", "strategy", "unit", "labelled_slices", "settings", "recipe", "plane"}
    options = (
        (name, str(value) if name in values else "")
        for name, value in given(context).items()
        if name != "seed"
    )
    file = str(context.params.get("input", "")).endswith(".nii.gz")
    return (context.info_name, file, context.params.get("name"), *sorted(options))


RUN = {
    kind(line): line
    for line in reversed(POSCON)
    if LINES[line] not in ELSEWHERE and not reasons(line)
}
"""One line for each kind of command."""


def marked(line: str) -> Any:
    """A training with a method or settings of its own is slow; that these are right is tested."""
    context = parsed(line)
    training = context.info_name in ("pretrain", "finetune")
    special = training and {"method", "settings", "recipe"} & given(context).keys()
    return pytest.param(line, marks=pytest.mark.slow) if special else line


@pytest.fixture(scope="module")
def files(
    store: Path,
    scans: Path,
    pretrained: Path,
    finetuned: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, object]:
    """What the commands of the pages read, by the name of the argument."""
    folder = tmp_path_factory.mktemp("pages")
    bare = shutil.copytree(store, folder / "bare")
    api.label(bare, remove=[f"phantom_{number:03d}" for number in range(5)])
    api.suggest(bare, folder / "next", budget=4, exclude=["phantom_004"])
    api.predict(finetuned, scans, folder / "predictions", cases=["phantom_003", "phantom_004"])
    names = folder / "test.txt"
    names.write_text("phantom_004\n")
    ranges = folder / "ranges.csv"
    ranges.write_text("case,class,first,last\nphantom_000,lower,3,9\n")
    recipe = folder / "my.yaml"
    recipe.write_text("prepare: {spacing: 6}\npretrain: {epochs: 1}\nfinetune: {iterations: 2}\n")
    suggestion = folder / "next" / "suggestion.csv"
    return {
        "source": scans,
        "store": store,
        "bare": bare,
        "init": pretrained,
        "model": finetuned,
        "run": finetuned,
        "input": scans,
        "predictions": folder / "predictions",
        "references": scans,
        "label_maps": scans / "labelsTr",
        "labels": "1=lower,2=middle,3=upper,4=tube",
        "suggestion": suggestion,
        "slices": suggestion,
        "ranges": ranges,
        "recipe": recipe,
        "labelled": 2,
        **dict.fromkeys(("cases", "exclude", "validation", "unlabelled", "reverse"), names),
    }


WRITTEN = {("prepare", "store"), ("pretrain", "run"), ("finetune", "run"), ("predict", "output")}
CHANGED = ("inspect", "label", "align")
"""Commands that write into the store."""


def on_the_phantom(line: str, files: dict[str, object], out: Path) -> list[object]:
    """The arguments of a page's command, with the files and sizes of this test."""
    context = parsed(line)
    name = context.info_name
    if name == "suggest" or "labels" in given(context):
        files = {**files, "store": files["bare"]}
    if name in CHANGED:
        files = {**files, "store": shutil.copytree(str(files["store"]), out / "store")}

    def value(argument: str, stated: object) -> object:
        if (name, argument) in WRITTEN or argument == "out":
            return out / f"new{''.join(Path(str(stated)).suffixes)}"
        if argument == "input" and str(stated).endswith(".nii.gz"):
            return Path(str(files["input"])) / "imagesTr" / "phantom_000.nii.gz"
        if argument == "labelled_slices" and str(stated).endswith(".csv"):
            return files["slices"]
        if argument == "recipe" and not str(stated).endswith(".yaml"):
            return stated
        return files.get(argument, stated)

    arguments = [
        value(parameter.name, context.params[parameter.name])
        for parameter in context.command.params
        if parameter.param_type_name == "argument" and context.params[parameter.name] is not None
    ]
    options = {**given(context), **QUICK.get(name, {})}
    options.pop("minutes", None)
    stated = dict(text.split("=", 1) for text in options.pop("settings", None) or [])
    settings = {key: SMALLER.get(key, text) for key, text in stated.items()}
    if name == "pretrain":
        settings = TINY | settings
    if name == "finetune":
        settings = {"size": "32", "batch": "4"} | settings
        if {"init", "exclude"} <= options.keys():  # the pre-training has seen every phantom
            settings["transductive"] = "true"
        if "labelled_slices" not in options:  # so that others are left without labels
            options["labelled"] = 2
    flags = {p.name: p.opts[0] for p in context.command.params if p.param_type_name == "option"}
    for option, given_value in options.items():
        arguments += [flags[option]]
        arguments += [] if given_value is True else [value(option, given_value)]
    for key, text in settings.items():
        arguments += ["--set", f"{key}={text}"]
    return [name, *arguments]


@pytest.mark.parametrize("line", map(marked, RUN.values()))
def test_the_command_runs(
    line: str,
    files: dict[str, object],
    poscon: Callable[..., tuple[int, str, str]],
    no_picture: None,
    no_workers: None,
    tmp_path: Path,
) -> None:
    code, _, err = poscon(*on_the_phantom(line, files, tmp_path))
    assert code == 0, err


@pytest.mark.parametrize("line", REFUSED)
def test_the_page_shows_what_is_refused(
    line: str, store: Path, poscon: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    page = (ROOT / LINES[f"$ {line}"]).read_text()
    shown = re.search(rf"\$ {re.escape(line)}\n((?:    .+\n)+)", page)
    assert shown
    pieces = [" ".join(piece.split()) for piece in shown[1].split("…")]
    words = shlex.split(line)[1:]
    code, _, err = poscon(words[0], store, tmp_path / "run", *words[3:])
    assert code == 2
    assert re.fullmatch(".*".join(map(re.escape, pieces)), err.strip())
