"""The Python API: every function can be called, takes what a person gives, and is checked."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

import poscon
from poscon.cli import app
from poscon.errors import PosconError
from poscon.settings import resolve
from poscon.store.names import read_names
from poscon.store.store import Store
from poscon.training.pretrain_settings import PretrainSettings

FUNCTIONS = [name for name in poscon.__all__ if name not in ("PosconError", "__version__")]
COMMANDS = [name for name in FUNCTIONS if not name.startswith("load_")]
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "python-api.md"


def test_dir_lists_the_public_names() -> None:
    assert dir(poscon) == sorted(poscon.__all__)
    for name in COMMANDS:
        assert name in dir(poscon)
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(poscon, name))
        assert getattr(poscon, name).__name__ == name
        assert "Raises:" in (getattr(poscon, name).__doc__ or "")
    with pytest.raises(AttributeError, match="has no attribute 'pretain'"):
        poscon.pretain  # noqa: B018


CALLS = """
import importlib, pkgutil, sys
import poscon

for module in pkgutil.walk_packages(poscon.__path__, "poscon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in poscon.__all__:
    getattr(poscon, name)
arguments = {
    "prepare": ("nowhere", "store"), "inspect": ("nowhere",), "pretrain": ("nowhere", "run"),
    "finetune": ("nowhere", "run"), "predict": ("nowhere", "scan.nii.gz", "out.nii.gz"),
    "evaluate": ("nowhere", "nowhere"), "compare": ("nowhere", "out"), "report": ("nowhere",),
    "bench": ("nowhere",), "demo": (__file__,), "load_model": ("nowhere",),
    "load_encoder": ("nowhere",), "suggest": ("nowhere", "out"),
    "export": ("nowhere", "out"),
    "label": ("nowhere", "."),
    "align": ("nowhere",),
    "view": ("nowhere",),
}
keywords = {"suggest": {"budget": 1}, "export": {"to": "torch"}}
functions = set(poscon.__all__) - {"PosconError", "__version__"}
assert set(arguments) == functions, set(arguments) ^ functions
for name, given in arguments.items():
    try:
        getattr(poscon, name)(*given, **keywords.get(name, {}))
    except poscon.PosconError as error:
        print(name, error)
    else:
        raise AssertionError(name)
"""


def test_every_function_is_callable_after_every_module_is_imported(tmp_path: Path) -> None:
    """In a fresh process: no module takes the place of a function."""
    (tmp_path / "calls.py").write_text(CALLS)
    result = subprocess.run(
        [sys.executable, "calls.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(FUNCTIONS)


def test_no_module_has_the_name_of_a_function() -> None:
    folder = Path(poscon.__file__).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(poscon.__all__)


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 2, "network": {"width": 8}},
        {"epochs": 2, "network.width": 8},
        ["epochs=2", "network.width=8"],
        ("epochs=2", "network.width=8"),
        (text for text in ("epochs=2", "network.width=8")),
    ],
)
def test_settings_are_a_mapping_or_texts(given: Any) -> None:
    told = resolve(PretrainSettings, "pretrain", None, given)
    assert told.epochs == 2
    assert told.network == PretrainSettings().network.model_copy(update={"width": 8})


def test_a_bare_text_is_one_setting() -> None:
    assert resolve(PretrainSettings, "pretrain", None, "epochs=2").epochs == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"network": {"widht": 8}}, "did you mean 'width'"),
        ({2: 2}, "settings: 2 is no text"),
        (["epochs", 2], "settings: 2 is no text"),
        (3, "give a mapping, or texts"),
        ("epochs", "write key=value"),
        ({"epochs": 0}, "setting epochs = 0"),
        ({"epochs": 3, "seed": 1}, "--set seed: given as an option too"),
    ],
)
def test_settings_of_another_form_are_one_line(given: Any, words: str) -> None:
    with pytest.raises(PosconError, match=re.escape(words)) as caught:
        resolve(PretrainSettings, "pretrain", None, given, seed=4)
    assert "\n" not in str(caught.value)


TINY: dict[str, Any] = {"network": {"width": 4, "levels": 2}, "size": 32, "batch": 16}
FEW: dict[str, Any] = {"size": 32, "batch": 4}


def test_every_function_with_settings_takes_a_mapping(
    store: Path, pretrained: Path, scans: Path, tmp_path: Path
) -> None:
    """And lists of names wherever it takes a file of names."""
    prepared = poscon.prepare(
        scans,
        tmp_path / "store",
        settings={"spacing": 6.0, "modality": "mr"},
        reverse=["phantom_003"],
        processes=1,
    )
    turned = {c.id: c.geometry.flips[0] for c in prepared.cases}
    straight = {c.id: c.geometry.flips[0] for c in Store(store).cases}
    assert {name for name in turned if turned[name] != straight[name]} == {"phantom_003"}
    poscon.pretrain(
        store,
        tmp_path / "pre",
        cases=("phantom_000", "phantom_001", "phantom_002"),
        exclude={"phantom_002"},
        settings={**TINY, "epochs": 1},
    )
    cases = yaml.safe_load((tmp_path / "pre" / "cases.json").read_text())
    assert [case["id"] for case in cases] == ["phantom_000", "phantom_001"]
    poscon.finetune(
        store,
        tmp_path / "seg",
        init=tmp_path / "pre",
        cases=["phantom_000"],
        unlabelled=["phantom_001"],
        exclude=["phantom_004"],
        validation=["phantom_003"],
        method="mean-teacher",
        settings={**FEW, "iterations": 2, "checkpoint_every": 1},
    )
    roles = {
        case["id"]: case["role"]
        for case in yaml.safe_load((tmp_path / "seg" / "cases.json").read_text())
        if case["by"] == "finetune"
    }
    assert roles == {
        "phantom_000": "labelled",
        "phantom_001": "unlabelled",
        "phantom_003": "validation",
    }
    written = poscon.predict(tmp_path / "seg", scans, tmp_path / "out", cases=["phantom_004"])
    assert [path.name for path in written] == ["phantom_004.nii.gz"]
    result = poscon.bench(store, settings=TINY, seconds=1)
    assert result.settings.network.width == 4


def test_compare_takes_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="unknown setting 'fold'"):
        poscon.compare("small", tmp_path / "out", settings={"fold": 3})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "the list of names: names no case"),
        (["phantom_000", 3], "3 is no text"),
        (3, "give a file of names, or a list of names"),
        ({"a": 1}, "give a file of names, or a list of names"),
        ("phantom_000", "cannot read the list of names"),
    ],
)
def test_names_of_another_form_are_one_line(source: Any, words: str) -> None:
    with pytest.raises(PosconError, match=re.escape(words)):
        read_names(source)


def test_names_keep_their_order_and_a_set_is_sorted() -> None:
    assert read_names(["b", "a"]) == ["b", "a"]
    assert read_names(("b", "a")) == ["b", "a"]
    assert read_names({"b", "a"}) == ["a", "b"]


def test_an_unknown_name_in_a_list_is_said(store: Path, scans: Path, tmp_path: Path) -> None:
    for call in (
        lambda: poscon.pretrain(store, tmp_path / "run", cases=["phantom_999"]),
        lambda: poscon.prepare(scans, tmp_path / "run", reverse=["phantom_999"]),
    ):
        with pytest.raises(PosconError, match=r"the list of names: 1 name.*phantom_999"):
            call()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("finetune", {"labelled": "2"}, "labelled='2': is a text; give the number itself, "),
        ("finetune", {"iterations": "20"}, "iterations='20': is a text"),
        ("finetune", {"labelled": 2.5}, "labelled=2.5: should be a valid integer"),
        ("finetune", {"labelled": True}, "labelled=True: should be a valid integer"),
        ("pretrain", {"epochs": "3"}, "epochs='3': is a text"),
        ("pretrain", {"seed": "1"}, "seed='1': is a text"),
        ("pretrain", {"resume": "yes"}, "resume='yes': should be a valid boolean"),
        ("pretrain", {"method": 3}, "method=3: should be a valid string"),
        ("prepare", {"spacing": "6"}, "spacing='6': is a text; give the number itself, spacing=6"),
        ("prepare", {"spacing": "wide"}, "spacing='wide': "),
        ("prepare", {"processes": "2"}, "processes='2': is a text"),
        ("prepare", {"source_spacing": ("1", "1", "5")}, "source_spacing=('1', '1', '5'): "),
        ("prepare", {"source_spacing": (1, 1)}, "source_spacing=(1, 1): "),
        ("predict", {"channel": 1.5}, "channel=1.5: "),
        ("evaluate", {"source_spacing": "1,1,5"}, "source_spacing='1,1,5': "),
        ("compare", {"processes": "1"}, "processes='1': is a text"),
        ("bench", {"seconds": "9"}, "seconds='9': is a text"),
        ("demo", {"seed": "1"}, "seed='1': is a text"),
        ("report", {"folder": 5}, "folder=5: "),
        ("load_model", {"run": 5}, "run=5: "),
    ],
)
def test_an_argument_of_another_type_is_one_line(
    function: str, arguments: dict[str, Any], words: str
) -> None:
    called = getattr(poscon, function)
    required = {
        name: "nowhere"
        for name, parameter in inspect.signature(called).parameters.items()
        if parameter.default is parameter.empty
    }
    with pytest.raises(PosconError, match=re.escape(words)) as caught:
        called(**{**required, **arguments})
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_lists_of_sizes_are_taken(scans: Path, tmp_path: Path) -> None:
    sizes: Any = [2.0, 2.0, 6.0]
    prepared = poscon.prepare(
        scans, tmp_path / "store", spacing=np.float64(6), source_spacing=sizes, processes=1
    )
    assert prepared.manifest.preparation.source_spacing == (2, 2, 6)
    assert poscon.prepare.__name__ == "prepare"
    with pytest.raises(TypeError, match="unexpected keyword"):
        poscon.prepare(scans, tmp_path / "other", spacin=6)  # type: ignore[call-arg]


def test_a_store_says_what_is_in_it(store: Path) -> None:
    text = repr(Store(store))
    assert text.startswith(f"Store('{store}': 5 cases of 5 subjects, 5 of them labelled; classes ")
    for name in Store(store).class_names:
        assert name in text
    assert "pixels of 6 mm" in text


# One command is one function.

CLI_ONLY = {
    "inspect": {"as_json"},
    "evaluate": {"as_json"},
    "bench": {"as_json"},
    "compare": {"as_json", "dry_run"},
}
"""Options that change only what is printed."""


def command(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_arguments_of_its_function(name: str) -> None:
    options = [parameter.name for parameter in command(name).params]
    arguments = list(inspect.signature(getattr(poscon, name)).parameters)
    assert [o for o in options if o not in CLI_ONLY.get(name, set())] == arguments


VALUES = {
    "layout": "plain", "plane": "coronal", "spacing": "2.5", "source_spacing": "1,2,3",
    "modality": "mr", "labels": "1=a", "channel": "1", "reverse": "r.txt", "processes": "3",
    "engine": "ray", "address": "head:1", "recipe": "r.yaml", "settings": "batch=3",
    "out": "place", "method": "simclr", "cases": "c.txt", "exclude": "e.txt", "epochs": "7",
    "seed": "5", "device": "cpu", "init": "i", "labelled": "4", "unlabelled": "u.txt",
    "validation": "v.txt", "iterations": "9", "data": "d", "pretrain_data": "p", "seconds": "8",
    "budget": "6", "unit": "subject", "strategy": "random", "model": "m", "source": "s",
    "ignore_label": "9", "labelled_slices": "l.csv", "minutes": "1.5", "ranges": "n.csv",
    "suggestion": "t.csv", "to": "torch", "licence": "MIT", "results": "r.json", "opset": "18",
    "on_gap": "split", "case_name": "PatientID", "remove": "a", "logger": "mlflow",
    "series": "Modality=CT",
    "predictions": "q", "scans": "w", "port": "8800", "position": "learned", "nsd_tolerance": "3.5",
}  # fmt: skip
FOUND = {
    "spacing": 2.5, "source_spacing": (1.0, 2.0, 3.0), "channel": 1, "processes": 3, "epochs": 7,
    "seed": 5, "labelled": 4, "iterations": 9, "seconds": 8.0, "settings": ["batch=3"],
    "resume": True, "budget": 6, "ignore_label": 9, "minutes": 1.5, "remove": ["a"],
    "to": "torch", "opset": 18, "port": 8800, "no_browser": True, "average_views": True,
    "nsd_tolerance": 3.5,
}  # fmt: skip


class Called(Exception):
    """Stops a command where its function would begin."""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What the function of a command is called with."""

    def called(name: str, *arguments: str) -> dict[str, Any]:
        home = sys.modules[getattr(poscon, name).__module__]
        signature = inspect.signature(getattr(poscon, name))
        seen: dict[str, Any] = {}

        def stand_in(*args: Any, **kwargs: Any) -> None:
            seen.update(signature.bind(*args, **kwargs).arguments)
            raise Called

        with monkeypatch.context() as patch:
            patch.setattr(home, name, stand_in)
            with pytest.raises(Called):
                command(name).main([*arguments], standalone_mode=False)
        return seen

    return called


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_reaches_the_function(name: str, call: Callable[..., dict[str, Any]]) -> None:
    positions: list[str] = []
    options: dict[str, list[str]] = {}
    required: dict[str, Any] = {}
    for parameter in command(name).params:
        if parameter.param_type_name == "argument":
            positions.append(parameter.name)
        elif parameter.required:
            positions += [parameter.opts[0], VALUES[parameter.name]]
            required[parameter.name] = FOUND[parameter.name]
        elif parameter.name not in CLI_ONLY.get(name, set()):
            flag = [] if parameter.is_flag else [VALUES[parameter.name]]
            options[parameter.name] = [parameter.opts[0], *flag]
    without = call(name, *positions)
    assert without.items() >= required.items()
    for option, given in options.items():
        seen = call(name, *positions, *given)
        expected = FOUND.get(option, VALUES.get(option))
        assert seen[option] == expected or str(seen[option]) == expected
        others = {key: value for key, value in seen.items() if key != option}
        assert others == {key: value for key, value in without.items() if key != option}
        assert seen[option] != without.get(option)


def test_every_option_says_what_happens() -> None:
    group: Any = typer.main.get_command(app)
    for name, found in group.commands.items():
        for parameter in found.params:
            help_text = getattr(parameter, "help", None) or ""
            assert len(help_text) > 5, (name, parameter.name)
            assert help_text.rstrip(")").endswith("."), (name, parameter.name)


# The examples of the page


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """In one process, one after the other."""
    code = "\n".join(blocks())
    assert "poscon.load_model" in code
    assert "poscon.load_encoder" in code
    (tmp_path / "page.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "page.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "labelled='2': is a text; give the number itself, labelled=2" in result.stdout
    assert (tmp_path / "results.json").is_file()


def test_the_page_names_every_function_with_its_arguments() -> None:
    text = PAGE.read_text()
    for name in FUNCTIONS:
        row = re.search(rf"`{name}\((.*?)\)`", text)
        assert row, name
        for argument in inspect.signature(getattr(poscon, name)).parameters:
            assert re.search(rf"\b{argument}\b", row[1]), (name, argument)
