"""Machines that have less than usual: through the real command line where that matters."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from poscon import environment, executors
from poscon.commands.evaluate import evaluate
from poscon.commands.finetune import finetune
from poscon.commands.inspect import inspect
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.executors import LocalEngine, outcomes
from poscon.files import printable
from poscon.reports.report import report
from poscon.store.names import read_names
from poscon.store.store import Store
from poscon.volumes.scan import read_header

LATIN = os.fsdecode(b"gr\xf6sse")
TINY = ["size=32", "batch=4"]


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.zeros((16, 16, 6), np.uint8)
    label[4:10, 5:12, 1:5] = 1
    return (100 * label + rng.normal(50, 5, label.shape)).astype(np.float32), label


def data_set(root: Path, names: tuple[str, ...]) -> Path:
    for number, name in enumerate(names):
        for kind, data in zip(("images", "labels"), phantom(number), strict=True):
            (root / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), root / "new.nii.gz")
            (root / "new.nii.gz").rename(root / kind / f"{name}.nii.gz")
    return root


@pytest.mark.parametrize(
    "folder", ["plain", os.fsdecode(b"\xe4rzte"), "\u0434\u0430\u043d\u043d\u044b\u0435"]
)
def test_names_that_are_not_utf8_go_through_every_command(folder: str, tmp_path: Path) -> None:
    root = tmp_path / folder
    source = data_set(root / "scans", (LATIN, os.fsdecode(b"\xff\xfe"), "c"))
    store = prepare(source, root / "store", processes=1)
    assert sorted(c.subject for c in store.cases) == ["%FF%FE", "c", "gr%F6sse"]
    inspect(root / "store")
    network = ["network.width=4", "network.levels=2"]
    pretrain(root / "store", root / "pre", epochs=1, settings=[*TINY, *network])
    finetune(root / "store", root / "run", init=root / "pre", iterations=1, settings=TINY)
    (root / "names.txt").write_bytes(b"gr\xf6sse  # in Latin-1\nc\n")
    written = predict(root / "run", source, root / "out", cases=root / "names.txt")
    assert [path.name for path in written] == ["c.nii.gz", "gr%F6sse.nii.gz"]
    for references in (source, source / "labels"):
        evaluation = evaluate(root / "out", references)
        assert {row.case for row in evaluation.rows} == {"gr%F6sse", "c"}
    evaluate(root / "out", source, root / "results")
    report(root / "run").read_text(encoding="utf-8")
    assert Store(root / "store").cases == store.cases


def test_a_name_becomes_text_and_stays_the_same_if_it_is() -> None:
    assert printable(LATIN) == "gr%F6sse"
    for name in ("plain", "gr\u00f6sse", "\u0434\u0430", "100%", ""):
        assert printable(name) == name


def test_a_format_that_needs_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    """SimpleITK would end the process."""
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(phantom(0)[0]), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(tmp_path / f"{LATIN}.nrrd")
    with pytest.raises(PosconError, match="is not UTF-8, and files of this format need that"):
        read_header(tmp_path / f"{LATIN}.nrrd")


def test_names_in_a_file_may_be_utf8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("gr\u00f6sse\n".encode())
    assert read_names(tmp_path / "names.txt") == ["gr\u00f6sse"]


def command(tmp_path: Path, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    for folder in ("a", "b"):
        for number in range(2):
            path = tmp_path / folder / f"c{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(phantom(number)[1], np.eye(4)), path)
    return started("evaluate", "a", "b", cwd=tmp_path, **variables)


def started(*arguments: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "poscon", *arguments],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        check=False,
    )


def test_a_table_in_a_terminal_without_its_signs(tmp_path: Path) -> None:
    result = command(tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert b"1.000 +- 0.000" in result.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_without_the_signs(variables: dict[str, str], tmp_path: Path) -> None:
    """Of a text, on stdout and on stderr: a recipe is printed without loading torch."""
    (tmp_path / "mine.yaml").write_text("# 1.000 ± 0.000\n", encoding="utf-8")
    result = started("recipes", "mine.yaml", cwd=tmp_path, **variables)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout in (b"# 1.000 +- 0.000\n", b"# 1.000 \xb1 0.000\n")
    result = started("recipes", "\u0434\u0430", cwd=tmp_path, **variables)
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: recipe ")
    assert result.stderr.count(b"\n") == 1


def test_a_home_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    result = command(tmp_path, HOME="/proc", XDG_CACHE_HOME="/proc", XDG_CONFIG_HOME="/proc")
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in environment._USER_NAMES:
        monkeypatch.delenv(name, raising=False)
    environment.name_the_user()
    assert os.environ["LOGNAME"] == f"user-{os.getuid()}"
    monkeypatch.setenv("LOGNAME", "anna")
    environment.name_the_user()
    assert os.environ["LOGNAME"] == "anna"


def test_monai_can_be_imported_without_a_name() -> None:
    code = (
        "import os, pwd\n"
        "def unknown(uid): raise KeyError('getpwuid(): uid not found')\n"
        "pwd.getpwuid = unknown\n"
        "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME', 'HOME'): os.environ.pop(name, None)\n"
        "import poscon.finetuning.supervised, monai.metrics\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("error", [FileNotFoundError(2, "/dev/shm"), PermissionError(13, "no")])
def test_without_shared_memory_the_work_is_done_here(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    def none(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(executors, "ProcessPoolExecutor", none)
    engine = LocalEngine(3, gpus=False)
    tasks = [(str(number), (number,)) for number in range(7)]
    found = list(outcomes(engine, lambda number: f"{number} {os.getpid()}", tasks))
    engine.close()
    assert sorted(found) == [f"{number} {os.getpid()}" for number in range(7)]
    assert capsys.readouterr().err.count("no further processes can be started here") == 1
    source = data_set(tmp_path / "scans", ("a", "b"))
    assert len(prepare(source, tmp_path / "store", processes=2).cases) == 2


def test_without_shared_memory_a_defect_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    def fails() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(executors, "ProcessPoolExecutor", none)
    engine = LocalEngine(2, gpus=False)
    with pytest.raises(PosconError, match="task: not done"):
        list(outcomes(engine, fails, [("task", ())]))


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_what_is_printed_to_a_closed_stream_goes_nowhere(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    code = (
        "import sys; from poscon.environment import open_streams; open_streams(); "
        "file = open(sys.argv[1], 'w'); file.write('mine'); print('out'); "
        "print('err', file=sys.stderr); sys.stdin.read()"
    )

    def close() -> None:
        for number in closed:
            os.close(number)

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=close,
        check=True,
    )
    assert (tmp_path / "file").read_text() == "mine"
    assert done.stdout == ("" if 1 in closed else "out\n")
    assert done.stderr == ("" if 2 in closed else "err\n")
