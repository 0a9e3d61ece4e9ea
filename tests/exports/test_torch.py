"""``--to torch``: the source that is put together, and the refusals.

``tests/commands/test_export.py`` runs the files where poscon cannot be imported.
"""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from export_examples import fake_trained

from poscon.commands.export import export
from poscon.errors import PosconError
from poscon.exports.torch import _LOADER, imported, network_source, write_torch
from poscon.exports.trained import read_trained
from poscon.networks.unet import UNetEncoder


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


def test_torch_does_not_write_the_graph_to_the_disk_itself(
    finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full it would end the process."""

    def full(graph: object, file: object) -> None:
        assert isinstance(file, io.BytesIO)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("poscon.exports.torch.exported_graph", lambda _: None)
    monkeypatch.setattr("torch.export.save", full)
    with pytest.raises(PosconError, match="No space left on device"):
        export(finetuned, tmp_path / "out", to="torch")
    assert list(tmp_path.iterdir()) == []
