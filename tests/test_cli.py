import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nibabel as nib
import pytest

from poscon.cli import main
from poscon.version import __version__
from poscon.volumes.scan import scan_stem

COMMANDS = [
    "prepare",
    "inspect",
    "pretrain",
    "suggest",
    "label",
    "finetune",
    "predict",
    "evaluate",
    "export",
    "compare",
    "report",
    "bench",
    "demo",
    "methods",
    "layouts",
    "recipes",
    "plans",
]


Run = Callable[..., subprocess.CompletedProcess[str]]


def started(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "poscon", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        check=False,
    )


@pytest.fixture
def here(poscon: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same in this process."""

    def called(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        return subprocess.CompletedProcess(list(arguments), *poscon(*arguments))

    return called


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['poscon', '--help']\n"
        "from poscon.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'monai', 'lightning', 'nibabel', 'SimpleITK', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(
    command: str, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = here(command, "--help")
    assert result.returncode == 0
    assert f"Example: poscon {command}" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "nowhere", "store"], "nowhere: no such folder"),
        (["prepare", ".", "store"], "no data set found"),
        (["prepare", ".", "store", "--layout", "acd"], "layout 'acd' is unknown"),
        (["prepare", ".", "store", "--source-spacing", "1,2"], "write three sizes in mm"),
        (["inspect", "nowhere"], "not a store"),
        (["pretrain", "nowhere", "run"], "not a store"),
        (["suggest", "nowhere", "out", "--budget", "2"], "not a store"),
        (["label", "nowhere", "."], "not a store"),
        (["finetune", "nowhere", "run"], "not a store"),
        (["predict", "nowhere", "scan.nii.gz", "out.nii.gz"], "nowhere: no such folder"),
        (["evaluate", "nowhere", "nowhere"], "nowhere"),
        (["export", "nowhere", "out", "--to", "torch"], "nowhere: no such folder"),
        (["export", "nowhere", "out", "--to", "keras"], "--to keras: an unknown format"),
        (["export", ".", "out", "--to", "torch"], "no model to export"),
        (["export", ".", "out", "--to", "torch", "--opset", "18"], "--opset: has no effect"),
        (["recipes", "papers"], "neither a file nor a known recipe"),
        (["recipes", "small"], "neither a file nor a known recipe"),
        (["plans", "smal"], "did you mean 'small'"),
        (["plans", "small", "--json"], "--json: no effect with a name"),
        (["recipes", "paper-acdc", "--json"], "--json: no effect with a name"),
        (["compare", "small", "out", "--json"], "--json: no effect without --dry-run"),
        (["evaluate", "a", "b", "--source-spacing", "1,2"], "write three sizes in mm"),
        (["compare", "smal", "out"], "did you mean 'small'"),
        (["compare", "hippocampus", "out"], "say with --data where it is"),
        (["compare", "small", "out", "-s", "fold=3"], "did you mean 'folds'"),
        (["compare", "small", "out", "--engine", "dask"], "local or ray"),
        (["report", "nowhere"], "neither a comparison nor a run"),
        (["demo", "--modality", "pet"], "pet"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, here: Run
) -> None:
    result = here(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_the_process_so_too(tmp_path: Path) -> None:
    result = started("pretrain", "nowhere", "run", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: nowhere")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["pretrain", "a", "b", "--exclude", "x.txt", "--exclude", "y.txt"], "--exclude"),
        (["compare", "small", "out", "--processes", "1", "--processes=2"], "--processes"),
    ],
)
def test_an_option_of_one_value_is_said_once(
    arguments: list[str], option: str, tmp_path: Path, here: Run
) -> None:
    result = here(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert f"Invalid value for '{option}': said twice; say it once" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_the_completion_of_a_shell_take_an_option_as_often_as_it_is_said(
    tmp_path: Path, here: Run
) -> None:
    result = here("prepare", "--help", "--layout", "a", "--layout", "b", cwd=tmp_path)
    assert (result.returncode, "--layout" in result.stdout) == (0, True)
    assert "--labels" in completed("poscon prepare --layout a --layout b --la")


def test_an_option_of_several_values_is_said_as_often(tmp_path: Path, here: Run) -> None:
    result = here("pretrain", "a", "b", "-s", "epochs=2", "-s", "size=32", cwd=tmp_path)
    assert "not a store" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["prepare"], ["pretrain", "a", "b", "--epochs", "x"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = started(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


LISTED = {
    "methods": ("name", "pcl", "small"),
    "layouts": ("layout", "acdc", "pcl"),
    "recipes": ("recipe", "paper-chd", "hippocampus"),
    "plans": ("plan", "hippocampus", "paper-chd "),
}
"""By listing: its column of names, one that is in it, and what is not."""


@pytest.mark.parametrize("listing", LISTED)
def test_listings(listing: str, here: Run) -> None:
    column, known, absent = LISTED[listing]
    result = here(listing)
    assert result.returncode == 0
    assert known in result.stdout
    assert absent not in result.stdout
    as_json = here(listing, "--json")
    rows = json.loads(as_json.stdout)
    assert known in [row[column] for row in rows]
    assert all(isinstance(text, str) and text for row in rows for text in row.values())
    assert as_json.stderr == ""


def test_a_plan_printed_can_be_used(tmp_path: Path, here: Run) -> None:
    (tmp_path / "mine.yaml").write_text(here("plans", "small").stdout)
    result = here("compare", "mine.yaml", "out", "--dry-run", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_version() -> None:
    result = started("--version")
    assert result.returncode == 0
    assert result.stdout == f"poscon {__version__}\n"


def completed(words: str) -> list[str]:
    """What a shell offers for the last of these words."""
    code = "from poscon.cli import main; import sys; sys.argv = ['poscon']; main()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_POSCON_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        check=False,
    )
    assert "Traceback" not in result.stderr
    return sorted(result.stdout.split())


def test_completion_for_a_shell() -> None:
    assert completed("poscon pre") == ["predict", "prepare", "pretrain"]


def test_json_is_all_that_is_on_stdout(
    store: Path, finetuned: Path, scans: Path, tmp_path: Path, here: Run
) -> None:
    result = here("inspect", store, "--out", tmp_path / "sheet.png", "--json")
    found = json.loads(result.stdout)
    assert (found["cases"], found["subjects"], found["labelled_cases"]) == (5, 5, 5)
    assert found["contact_sheet"] == str(tmp_path / "sheet.png")
    assert [c["name"] for c in found["classes"]]
    assert isinstance(found["oddities"], list)

    predicted = here("predict", finetuned, scans, tmp_path / "out")
    assert predicted.returncode == 0, predicted.stderr
    result = here("evaluate", tmp_path / "out", scans, "--json")
    found = json.loads(result.stdout)
    assert set(found) >= {"summary", "cases", "rules"}
    assert found["cases"][0]["dice"] >= 0
    here("evaluate", tmp_path / "out", scans, "--out", tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == found

    tiny = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32", "-s", "batch=8"]
    result = here("bench", store, "--seconds", 1, *tiny, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["slices_per_second"] > 0
    assert found["settings"]["network"]["width"] == 4
    assert "measuring" in result.stderr


@pytest.mark.parametrize("modality", ["MR", "mr", "CT", "ct"])
def test_a_modality_is_upper_or_lower_case(modality: str, scans: Path) -> None:
    from poscon.comparison.plan_parts import PhantomSettings
    from poscon.store.prepare_settings import PrepareSettings

    assert PrepareSettings.model_validate({"modality": modality}).modality == modality.upper()
    assert PhantomSettings.model_validate({"modality": modality}).modality == modality.lower()


def test_what_a_command_is_told_to_write_is_a_position_or_an_option() -> None:
    """A place that has a default, or that may be left out, is ``--out``; another is a position."""
    import typer.main

    from poscon.cli import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for parameter in command.params:
            if parameter.name == "out":
                position = parameter.param_type_name == "argument"
                assert position == parameter.required, name


def test_a_recipe_printed_can_be_used(tmp_path: Path, here: Run) -> None:
    text = here("recipes", "paper-acdc").stdout
    (tmp_path / "mine.yaml").write_text(text.replace("threshold: 0.35", "treshold: 0.35"))
    (tmp_path / "store").mkdir()
    from poscon.errors import PosconError
    from poscon.settings import resolve
    from poscon.training.pretrain_settings import PretrainSettings

    with pytest.raises(PosconError, match="did you mean 'threshold'"):
        resolve(PretrainSettings, "pretrain", str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    "own", [{"finetune", "predict"}, pytest.param(set(COMMANDS), marks=pytest.mark.slow)]
)
def test_the_main_job_on_the_command_line(
    own: set[str], tmp_path: Path, scans: Path, here: Run
) -> None:
    """Scans to metrics through every command, as a user would type it.

    Some commands have a process of their own. Other tests start those of the others.
    """
    tiny = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32", "-s", "batch=8"]
    (tmp_path / "test.txt").write_text("phantom_004\n")
    steps: list[list[object]] = [
        ["prepare", scans, "store", "--spacing", 6, "--processes", 2],
        ["inspect", "store"],
        ["pretrain", "store", "pre", "--exclude", "test.txt", "--epochs", 1, *tiny],
        ["finetune", "store", "seg", "--init", "pre", "--labelled", 2, "--exclude", "test.txt"],
        ["predict", "seg", scans, "out", "--cases", "test.txt"],
        ["evaluate", "out", scans, "--out", "results"],
    ]
    steps[3] += ["--iterations", 5, "-s", "size=32", "-s", "batch=4"]
    for step in steps:
        result = (started if step[0] in own else here)(*step, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert (tmp_path / "out" / "phantom_004.nii.gz").is_file()
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "results.csv").is_file()
    assert (tmp_path / "store" / "contact_sheet.png").is_file()


def test_real_scans_through_every_command(shared_data: Path, tmp_path: Path, here: Run) -> None:
    """Hippocampus and cardiac MRI: label maps lie on the scans they came from."""
    hippocampus, acdc = tmp_path / "Task04_Hippocampus", tmp_path / "acdc"
    task = shared_data / "msd" / "Task04_Hippocampus"
    description = json.loads((task / "dataset.json").read_text())
    description["training"] = description["training"][:4]
    for entry in description["training"]:
        for path in entry.values():
            (hippocampus / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(task / path, hippocampus / path)
    (hippocampus / "dataset.json").write_text(json.dumps(description))
    for patient in ("patient002", "patient003", "patient004"):
        shutil.copytree(shared_data / "acdc" / "training" / patient, acdc / patient)
    for source, options, test in (
        (hippocampus, ["--plane", "coronal"], scan_stem(Path(entry["image"]))),
        (acdc, [], "patient004"),
    ):
        place = tmp_path / f"out_{source.name}"
        place.mkdir()
        (place / "test.txt").write_text(f"{test}\n")
        tiny = ["-s", "network.width=4", "-s", "network.levels=2", "-s", "size=32", "-s", "batch=8"]
        few = ["--exclude", "test.txt", "--iterations", 3, "-s", "size=32", "-s", "batch=4"]
        for step in (
            ["prepare", source, "store", *options],
            ["pretrain", "store", "pre", "--exclude", "test.txt", "--epochs", 1, *tiny],
            ["finetune", "store", "seg", "--init", "pre", "--labelled", 2, *few],
            ["predict", "seg", source, "out", "--cases", "test.txt"],
            ["evaluate", "out", source, "--out", "results.json"],
        ):
            result = here(*step, cwd=place)
            assert result.returncode == 0, result.stderr
        predicted = sorted((place / "out").glob("*.nii.gz"))
        assert [path.name.startswith(test) for path in predicted] == [True] * (
            2 if source == acdc else 1
        )
        for path in predicted:
            (scan,) = (
                source.rglob(path.name) if source == acdc else source.glob(f"imagesTr/{path.name}")
            )
            ours, theirs = nib.load(path), nib.load(scan)
            assert ours.shape == theirs.shape
            assert (ours.affine == theirs.affine).all()
        assert json.loads((place / "results.json").read_text())["cases"]


def test_sigterm_and_short_memory_are_one_line_too(
    poscon: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("poscon.commands.predict.predict", terminated)
    kept = "interrupted; what was finished is kept; go on with: poscon predict run 'a scan' out"
    assert poscon("predict", "run", "a scan", "out") == (143, "", f"{kept} --resume\n")
    for error in (
        MemoryError("1 GiB"),
        RuntimeError("can't allocate memory: 1 GiB"),
        RuntimeError("could not create a primitive for 1 GiB"),
    ):
        monkeypatch.setattr("poscon.commands.predict.predict", Mock(side_effect=error))
        code, _, said = poscon("predict", "run", "a scan", "out")
        assert code == 2
        assert re.fullmatch(r"error: out of memory \(.*1 GiB\); what was finished is .*\n", said)
    defect = Mock(side_effect=RuntimeError("a defect"))
    monkeypatch.setattr("poscon.commands.predict.predict", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        poscon("predict", "run", "a scan", "out")


def test_ctrl_c_says_that_what_was_finished_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["poscon", "layouts"])
    monkeypatch.setattr("poscon.listings.list_layouts", interrupt)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said == "interrupted; what was finished is kept; go on with: poscon layouts\n"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENAMETOOLONG, "File name too long"),
        (errno.ENOENT, "No such file or directory"),
        (errno.EMFILE, "Too many open files"),
        (errno.EFBIG, "File too large"),
        (errno.EIO, "Input/output error"),
        (errno.ESTALE, "Stale file handle"),
    ],
)
def test_what_a_disk_may_say_at_any_time_is_one_line(
    number: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "scan.nii")

    monkeypatch.setattr("poscon.listings.list_layouts", fail)
    code, _, err = poscon("layouts")
    assert code == 2
    assert err == f"error: scan.nii: cannot be used ({says})\n"


def test_a_working_folder_that_was_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poscon: Callable[..., tuple[int, str, str]]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("poscon.listings.list_layouts", os.getcwd)
    code, _, err = poscon("layouts")
    assert code == 2
    assert err.startswith("error: the working folder, which was deleted: cannot be used (No such")
