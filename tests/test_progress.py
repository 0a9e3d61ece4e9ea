import time

import pytest

from poscon import progress
from poscon.progress import progress_bar


def test_a_log_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where stderr is no terminal, also while one case takes long; and not after the end."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    with progress_bar() as bar:
        task = bar.add_task("preparing", total=2, completed=1, status="")
        said = ""
        while not said:
            time.sleep(0.01)
            said = capsys.readouterr().err
        bar.advance(task)
    capsys.readouterr()
    time.sleep(0.05)
    assert said.splitlines()[0] == "preparing: 1 of 2 after 0:00:00"
    assert capsys.readouterr().err == ""


def test_a_short_job_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as bar:
        bar.add_task("preparing", total=2, status="")
    assert capsys.readouterr().err == ""
