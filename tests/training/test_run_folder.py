"""The folder of a run, where it cannot be begun."""

from pathlib import Path

import pytest

from poscon.errors import PosconError
from poscon.store.store import Store
from poscon.training import run as module
from poscon.training.run import RunFolder


def test_a_run_that_cannot_be_begun_leaves_nothing_in_the_way(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: object) -> None:
        raise PosconError(f"{path}: cannot be written")

    folder = RunFolder(tmp_path / "run")
    settings = {"device": "cpu", "precision": "32"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with pytest.raises(PosconError, match="cannot be written"):
            folder.begin("pretrain", Store(store), settings, {})
    assert folder.is_new
    folder.begin("pretrain", Store(store), settings, {})
    assert folder.begun
