"""``--to torch``: the files work where poscon cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_examples import fake_trained

from poscon.errors import PosconError
from poscon.exports.torch import _LOADER, imported, network_source, write_torch
from poscon.exports.trained import read_trained
from poscon.networks.unet import UNetEncoder

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
def test_a_model_in_a_process_without_poscon(finetuned: Path, tmp_path: Path) -> None:
    """With other batches and sizes than it was exported with, one slice too."""
    trained = read_trained(finetuned)
    difference = write_torch(trained, tmp_path)
    assert difference <= 1e-6
    assert {p.name for p in tmp_path.iterdir()} == {
        "weights.safetensors", "network.py", "network.pt2",
    }  # fmt: skip
    stride = trained.settings.stride
    images = [torch.randn(n, 1, a * stride, b * stride) for n, a, b in ((1, 5, 3), (4, 16, 9))]
    for x, (by_source, by_graph) in zip(images, alone(tmp_path, images), strict=True):
        expected = trained.network(x)
        torch.testing.assert_close(by_source, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by_graph, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        {"architecture": "residual", "blocks": (1, 2, 1), "context": 1},
        {"bottleneck_norm": False},
    ],
)
def test_other_networks(finetuned: Path, tmp_path: Path, network: dict[str, Any]) -> None:
    trained = fake_trained(finetuned, tmp_path / "run", **network)
    (tmp_path / "out").mkdir()
    assert write_torch(trained, tmp_path / "out") <= 1e-5


@pytest.mark.slow
def test_an_encoder(pretrained: Path, tmp_path: Path) -> None:
    assert write_torch(read_trained(pretrained), tmp_path) <= 1e-5


@pytest.mark.parametrize(
    "network",
    [
        {"architecture": "residual", "blocks": (1, 2, 1), "context": 1},
        {"bottleneck_norm": False},
    ],
)
@torch.no_grad()
def test_the_source_of_other_networks(
    finetuned: Path, tmp_path: Path, network: dict[str, Any]
) -> None:
    trained = fake_trained(finetuned, tmp_path / "run", **network)
    (tmp_path / "network.py").write_text(network_source(trained))
    found = imported(tmp_path / "network.py").build()
    found.load_state_dict(trained.network.state_dict())
    assert torch.equal(found.eval()(trained.images), trained.network(trained.images))


def test_the_loader_has_ten_lines_at_most(finetuned: Path) -> None:
    source = network_source(read_trained(finetuned), _LOADER)
    loader = source[source.index("def load()") :]
    assert len(loader.strip().splitlines()) <= 10
    assert "import poscon" not in source
    assert "from poscon" not in source


def test_a_plug_in_s_network_has_no_source_here(
    finetuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(UNetEncoder):
        pass

    trained = read_trained(finetuned)
    monkeypatch.setattr(trained.encoder, "__class__", Other)
    with pytest.raises(PosconError, match=r"another package.*use --to onnx"):
        network_source(trained)


def test_a_network_that_computes_something_else_is_not_written(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = read_trained(finetuned)
    source = network_source(trained)
    wrong = source.replace("nn.LeakyReLU(inplace=True)", "nn.LeakyReLU(0.1, inplace=True)")
    assert wrong != source
    monkeypatch.setattr("poscon.exports.torch.network_source", lambda _, end: wrong + end)
    with pytest.raises(PosconError, match=r"network\.py: its outputs differ"):
        write_torch(trained, tmp_path)
