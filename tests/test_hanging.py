"""A test that hangs fails alone, and it still ends what it started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = Path(__file__).resolve().parents[1] / "pyproject.toml"

HANGING = """
import subprocess
import sys


def test_that_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            child.wait()
        finally:
            child.kill()


def test_after_it() -> None: ...
"""


def test_a_hanging_test_fails_alone_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(HANGING)
    (tmp_path / "test_other.py").write_text("def test_elsewhere() -> None: ...\n")
    options = ["-p", "xdist", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    options += ["--numprocesses", "2", "--dist", "loadfile", "-c", SETTINGS]
    options += ["--rootdir", tmp_path, "-o", "timeout=3", tmp_path]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options)],
        capture_output=True,
        text=True,
        # without all other plug-ins, whose imports take longer than the rest
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        timeout=120,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 failed, 2 passed" in result.stdout
    assert "test_that_hangs" in result.stdout
    assert "Timeout (>3.0s) from pytest-timeout" in result.stdout


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert float(request.config.getini("timeout")) > 0


@pytest.mark.slow
def test_a_slow_one_has_more_time(request: pytest.FixtureRequest) -> None:
    limit = request.node.get_closest_marker("timeout")
    assert limit.args[0] > float(request.config.getini("timeout"))
