"""``poscon view`` on the command line."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from poscon.commands import view as module

Command = Callable[..., tuple[int, str, str]]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_serves_until_ctrl_c_and_writes_nothing(scans: Path, tmp_path: Path) -> None:
    before = snapshot(scans)
    scan = scans / "imagesTr" / "phantom_000.nii.gz"
    with subprocess.Popen(
        [sys.executable, "-m", "poscon", "view", str(scan), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        # a shell starts what runs in the background with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("1 case(s) at http://127.0.0.1:")
            url = line.split()[-1]
            with urllib.request.urlopen(f"{url}case-0-channel-0.nii", timeout=60) as answer:
                assert len(answer.read()) > 352
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url.rsplit("/", 2)[0] + "/wrong/", timeout=60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # of a process that has ended nothing is left to kill
    assert process.returncode == 0
    assert "Traceback" not in err + out
    assert snapshot(scans) == before
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_one_line(scans: Path, poscon: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = poscon("view", scans, "--port", port, "--no-browser")
    assert (code, out) == (2, "")
    assert err == (
        f"error: --port {port}: cannot be used, another program uses it; give another one, or "
        "leave it out\n"
    )


def test_the_only_scan_must_be_readable(scans: Path, tmp_path: Path, poscon: Command) -> None:
    broken = tmp_path / "scan.nii.gz"
    broken.write_bytes((scans / "imagesTr" / "phantom_000.nii.gz").read_bytes()[:20_000])
    code, out, err = poscon("view", broken, "--no-browser")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {broken}: cannot be read")


@pytest.mark.parametrize(
    ("options", "screen", "opened"),
    [([], True, True), (["--no-browser"], True, False), ([], False, False)],
)
def test_a_browser_is_opened_where_there_is_a_screen(
    scans: Path, poscon: Command, monkeypatch: pytest.MonkeyPatch,
    options: list[str], screen: bool, opened: bool,
) -> None:  # fmt: skip
    urls: list[str] = []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.webbrowser, "open", urls.append)
    monkeypatch.setattr(module.ViewServer, "serve_forever", interrupted)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    if screen:
        monkeypatch.setenv("DISPLAY", ":0")
    code, out, _ = poscon("view", scans, *options)
    assert code == 0
    assert out.startswith("5 case(s) at http://127.0.0.1:")
    assert bool(urls) == opened
    assert all(url in out for url in urls)
