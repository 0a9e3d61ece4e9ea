"""``poscon export`` on the command line, and trainings that start from what it writes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poscon.commands.export import export
from poscon.commands.finetune import finetune
from poscon.errors import PosconError
from poscon.models import load_model
from poscon.networks.weights import read_weights
from poscon.reports.report import report

Command = Callable[..., tuple[int, str, str]]
FEW: dict[str, Any] = {"iterations": 1, "settings": ["size=32", "batch=4", "ema_decay=0"]}


def test_a_model_with_its_card(finetuned: Path, tmp_path: Path, poscon: Command) -> None:
    out = tmp_path / "deep" / "out"
    code, stdout, stderr = poscon("export", finetuned, out, "--to", "monai", "--licence", "MIT")
    assert (code, stdout) == (0, f"exported: {out}\n"), stderr
    assert {p.name for p in out.iterdir()} == {"MODEL_CARD.md", "configs", "models", "scripts"}
    assert {p.name for p in (out / "models").iterdir()} == {"cases.json", "model.pt"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert "license: MIT" in (out / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("finetuned", ["--to", "keras"], "--to keras: an unknown format; use torch, onnx, monai"),
        ("finetuned", ["--to", "torch", "--opset", "18"], "--opset: has no effect with --to torch"),
        ("finetuned", ["--to", "onnx", "--opset", "3"], "--opset 3: cannot be written"),
        ("finetuned", ["--to", "torch", "--results", "no.json"], "--results no.json: not results"),
        ("pretrained", ["--to", "monai"], "a pre-training run"),
        ("store", ["--to", "torch"], "no model to export"),
    ],
)
def test_bad_input_writes_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, poscon: Command, run: str,
    options: list[str], words: str,
) -> None:  # fmt: skip
    code, stdout, stderr = poscon(
        "export", request.getfixturevalue(run), tmp_path / "out", *options
    )
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_stays_as_it_is(finetuned: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(PosconError, match="exists already"):
        export(finetuned, tmp_path / "out", to="torch")
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def exported(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = export(finetuned, tmp_path_factory.mktemp("exported") / "out", to="torch")
    assert {p.name for p in out.iterdir()} == {
        *("MODEL_CARD.md", "cases.json", "weights.safetensors", "network.py", "network.pt2"),
    }
    return out


ALONE = """
import sys
import torch

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("poscon", "monai", "pydantic", "lightning"), name

sys.meta_path.insert(0, Refuse())
import network

images = torch.load("images.pt")
model = network.load()
assert not model.training
graph = torch.export.load("network.pt2").module()
with torch.no_grad():
    torch.save([(model(x), graph(x)) for x in images], "outputs.pt")
assert not any(name.startswith("poscon") for name in sys.modules)
"""


def alone(folder: Path, images: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the exported network and graph compute, in a process that cannot import poscon."""
    torch.save(images, folder / "images.pt")
    result = subprocess.run(
        [sys.executable, "-B", "-c", ALONE],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    found: list[tuple[torch.Tensor, torch.Tensor]] = torch.load(folder / "outputs.pt")
    return found


@torch.no_grad()
def test_a_model_in_a_process_without_poscon(finetuned: Path, exported: Path) -> None:
    """With other batches and sizes than it was exported with, one slice too."""
    network = load_model(finetuned, device="cpu").network
    stride = network.settings.stride
    images = [torch.randn(n, 1, a * stride, b * stride) for n, a, b in ((1, 5, 3), (4, 16, 9))]
    for x, (by_source, by_graph) in zip(images, alone(exported, images), strict=True):
        torch.testing.assert_close(by_source, network(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by_graph, network(x), rtol=1e-5, atol=1e-5)


def test_a_training_starts_from_an_export(
    store: Path, finetuned: Path, exported: Path, tmp_path: Path, poscon: Command
) -> None:
    """Encoder and decoder are taken; the classes may be others, so the classifier is not."""
    weights = exported / "weights.safetensors"
    few = [option for text in FEW["settings"] for option in ("-s", text)]
    run = tmp_path / "run"
    code, _, stderr = poscon(
        "finetune", store, run, "--init", weights, "--iterations", 1, *few,
        "-s", "optimiser.lr=1e-12", "-s", "deep_supervision=0",
    )  # fmt: skip
    assert code == 0, stderr
    assert "encoder: " in stderr
    assert "2 other tensors not used" in stderr
    assert "prepared otherwise" not in stderr
    started, _ = read_weights(run / "model.safetensors")
    before, _ = read_weights(finetuned / "model.safetensors")
    for name, tensor in before.items():
        if "weight" in name and not name.startswith("classifier"):
            torch.testing.assert_close(started[name], tensor, rtol=1e-4, atol=1e-5)
    by = {entry["by"] for entry in json.loads((run / "cases.json").read_text())}
    assert by == {"finetune", "pretrain", "earlier finetune"}
    finetune(store, run, resume=True)  # knows its own cases among them
    report(run, tmp_path / "report.html")


def test_an_export_knows_what_it_has_seen(store: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"phantom_004 \(.*pretrain.*keeps apart"):
        finetune(
            store, tmp_path / "run", init=exported / "weights.safetensors",
            validation=["phantom_004"], **FEW,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_encoder_alone(store: Path, exported: Path, tmp_path: Path, poscon: Command) -> None:
    code, _, stderr = poscon(
        "finetune", store, tmp_path / "run", "--init", exported / "weights.safetensors",
        "--iterations", 1, "-s", "size=32", "-s", "batch=4", "-s", "init_parts=encoder",
    )  # fmt: skip
    assert code == 0, stderr
    assert "decoder: " not in stderr
    assert "other tensors not used" in stderr
