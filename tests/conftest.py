"""Fixtures for every test: the real scans, and a tiny phantom store with runs on it."""

from pathlib import Path

import pytest
from hypothesis import settings

from poscon.commands.finetune import finetune
from poscon.commands.pretrain import pretrain
from poscon.store.prepare import prepare
from poscon.volumes.phantom import write_phantom

settings.register_profile("poscon", deadline=None)  # a shared machine may stall at any example
settings.load_profile("poscon")

TINY = ["network.width=4", "network.levels=2", "size=32", "batch=16"]


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
        store, run, init=pretrained, labelled=3, iterations=60, settings=["size=32", "batch=8"]
    )
    return run
