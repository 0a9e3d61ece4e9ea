"""Fixtures for every test: the real scans, a tiny phantom store with runs on it, a browser."""

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from hypothesis import settings

from poscon.cli import main
from poscon.commands.finetune import finetune
from poscon.commands.prepare import prepare
from poscon.commands.pretrain import pretrain
from poscon.methods import Method
from poscon.step import Step
from poscon.volumes import phantom
from poscon.volumes.phantom import write_phantom

# a shared machine may stall at any example; the number is half of Hypothesis' own, for the time
settings.register_profile("poscon", deadline=None, max_examples=50)
settings.load_profile("poscon")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TINY = ["network.width=4", "network.levels=2", "size=32", "batch=16"]
SLOW_SECONDS = 3600
"""Time that a slow test has before it fails; the others have that of pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow test has more time, unless it says itself how much it has."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def _no_bfloat16() -> Iterator[None]:
    """``precision: auto`` is float32, so that the numbers are those of every other CPU.

    A test that starts poscon in another process and compares numbers sets ``precision=32``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("poscon.training.inference.multiplies_in_bfloat16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _phantoms_drawn_once() -> Iterator[None]:
    """A phantom that several tests write is drawn for the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "draw_phantom", functools.cache(phantom.draw_phantom))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the repository; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real scans (shared/data beside the repository) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms in Decathlon layout."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, subjects=5, seed=7)
    return folder


@pytest.fixture(scope="session")
def store(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "store"
    prepare(scans, path, spacing=6.0, processes=1)
    return path


@pytest.fixture(scope="session")
def pretrained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(store, run, epochs=2, settings=TINY)
    return run


@pytest.fixture(scope="session")
def finetuned(store: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finetune"
    finetune(
        store,
        run,
        init=pretrained,
        labelled=3,
        method="supervised",
        iterations=60,
        settings=["size=32", "batch=8"],
    )
    return run


@pytest.fixture
def poscon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; gives exit code, stdout and stderr.

    A process of its own imports torch first, which takes longer than most commands that fail.
    """

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["poscon", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return called


def _look_at(page: Path, script: str, folder: Path, *, dark: bool = False) -> tuple[Any, list[str]]:
    """Load a page, run a script in it, and give what it returns and the console's messages.

    Args:
        page: HTML file.
        script: body of a function; what it returns goes through JSON.
        folder: for the page with the script, and the browser's profile.
        dark: whether the user prefers dark.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser on this machine ({', '.join(BROWSERS)})")
    probe = (
        "<script>addEventListener('load', () => { const found = (() => {"
        f"{script}"
        "})(); document.body.insertAdjacentHTML('beforeend', "
        "'<pre id=found>' + encodeURIComponent(JSON.stringify(found)) + '</pre>'); });</script>"
    )
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", probe + "</body>"))
    result = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--window-size=1200,900",
            "--enable-logging=stderr",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', result.stdout)
    assert found, result.stderr
    return json.loads(unquote(found[1])), re.findall(r".*CONSOLE.*", result.stderr)


@contextmanager
def _power_cut(method: type[Method], steps: int) -> Iterator[None]:
    """A training that a power cut ends, after so many steps of its method."""
    original, calls = method.step, 0

    def failing(self: Method, *arguments: Any) -> Step:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise RuntimeError("power cut")
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "step", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            yield


@pytest.fixture(scope="module")
def no_workers() -> Iterator[None]:
    """What poscon gives to processes is done in this one, with one thread, as theirs have.

    Each process of its own imports torch and Fabric first, which takes longer than a tiny job.
    """

    def none(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("poscon.executors.ProcessPoolExecutor", none)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pre-training does not draw its curves, which takes longer than a tiny training."""
    monkeypatch.setattr("poscon.pictures.diagnostics.draw_diagnostics", lambda *_, **__: None)


@pytest.fixture
def power_cut() -> Callable[[type[Method], int], AbstractContextManager[None]]:
    """A context in which a training does not come to its end."""
    return _power_cut


@pytest.fixture
def look_at() -> Callable[..., tuple[Any, list[str]]]:
    """Loads a page in a headless browser; the test is skipped where there is none."""
    return _look_at
