"""The core of ``reliability/big_scan.py``, small: in this process, in many parts, without room."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from big_scan import same_grid, trial, write_scan
from memory_of import watch

from poscon import memory
from poscon.commands.predict import predict
from poscon.commands.prepare import prepare
from poscon.volumes.scan import read_scan


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big") / "scans"
    write_scan(folder, 6, 40, seed=0)
    return folder


@pytest.mark.parametrize("spacing", ["native", 1.0])
def test_many_parts_make_the_same_store(
    large: Path, tmp_path: Path, spacing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(large, tmp_path / "whole", spacing=spacing, processes=1)
    monkeypatch.setattr("poscon.volumes.slabs.SLAB_VOXELS", 1)
    parts = prepare(large, tmp_path / "parts", spacing=spacing, processes=1)
    for one, other in zip(whole.cases, parts.cases, strict=True):
        assert one.pixels_sha256 == other.pixels_sha256
        assert one.class_voxels == other.class_voxels
        np.testing.assert_allclose(whole.image(one), parts.image(other), atol=1e-3)


def test_the_label_map_has_the_grid_of_the_scan(
    large: Path, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is room for one scan only, so that none is read ahead."""
    files = predict(finetuned, large / "imagesTr", tmp_path / "ahead")
    needed = 2**28 + 8 * 6 * 40 * 40
    with_room(monkeypatch, tmp_path, 2 * needed)
    alone = predict(finetuned, large / "imagesTr", tmp_path / "alone")
    for file, again in zip(files, alone, strict=True):
        assert same_grid(large / "imagesTr" / file.name, file)
        np.testing.assert_array_equal(read_scan(file).data, read_scan(again).data)


def test_a_scan_that_does_not_fit_is_refused(
    large: Path,
    finetuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    with_room(monkeypatch, tmp_path, 2**20)
    scan = large / "imagesTr" / "plain.nii"
    code, _, said = poscon("predict", finetuned, scan, tmp_path / "labels.nii")
    assert (code, said.count("\n")) == (2, 1)
    assert f"{scan}: takes about 0.3 GB of memory, but 0.0 GB are free" in said
    assert not (tmp_path / "labels.nii").exists()
    code, _, said = poscon("prepare", large, tmp_path / "store", "--processes", 1)
    assert code == 2
    assert f"{scan}: takes about" in said
    assert not (tmp_path / "store").exists()


def test_no_more_scans_at_a_time_than_fit(
    large: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("poscon.commands.prepare.usable_cores", lambda: 8)
    with_room(monkeypatch, tmp_path, 2 * (2**28 + 2**29) + 2**28)
    prepare(large, tmp_path / "store")
    assert "note: 2 scan(s) at a time, and not 8, as memory allows no more" in (
        " ".join(capsys.readouterr().err.split())
    )


def with_room(monkeypatch: pytest.MonkeyPatch, folder: Path, n_bytes: int) -> None:
    """A machine that has so many bytes left."""
    (folder / "meminfo").write_text(f"MemAvailable: {n_bytes // 1024} kB\nSwapFree: 0 kB\n")
    monkeypatch.setattr(memory, "MACHINE", folder / "meminfo")


def test_what_a_command_takes_is_seen() -> None:
    held = "import time; held = bytearray(2**26); time.sleep(0.4); print('done')"
    watched = watch([sys.executable, "-c", f"import sys; {held}; sys.exit(3)"])
    assert watched.code == 3
    assert 2**26 < watched.peak < 2**27
    assert watched.silence >= 0.4


def test_a_command_is_stopped() -> None:
    watched = watch([sys.executable, "-c", "import time; time.sleep(60)"], until=lambda: True)
    assert watched.code < 0
    assert watched.seconds < 30


@pytest.mark.slow
def test_the_whole_trial(tmp_path: Path) -> None:
    assert not any(promise.broken for promise in trial(tmp_path, 100, 512, 0))
