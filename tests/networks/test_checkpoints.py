"""Files of weights that a training may start from."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from poscon.errors import PosconError
from poscon.networks.build import build_network
from poscon.networks.checkpoints import read_checkpoint, save_pickled
from poscon.networks.settings import NetworkSettings
from poscon.networks.weights import save_weights

SMALL = NetworkSettings(width=2, levels=2, channels=1)


def test_own_weights_of_a_network_and_of_an_encoder(tmp_path: Path) -> None:
    network = build_network(SMALL, 3)
    about = {"network": SMALL.model_dump(), "size": 32}
    for name, module in (("model", network), ("encoder", network.encoder)):
        path = tmp_path / f"{name}.safetensors"
        save_weights(path, module, about)
        found = read_checkpoint(path)
        assert (found.path, found.settings, found.about) == (path, SMALL, about)
        assert found.parts["encoder"].keys() == network.encoder.state_dict().keys()
    assert "decoder" not in found.parts
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert found.parts["decoder"].keys() == network.decoder.state_dict().keys()
    assert found.unused == ("classifier.weight", "classifier.bias") or set(found.unused) == {
        "classifier.weight",
        "classifier.bias",
    }


class Evil:
    """Would run a command if the file were read by pickle alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pth", {"net": {"fc.weight": torch.zeros(2)}}, "such as 'fc.weight', are those of no"),
        ("a.pt", {"net": {}}, "does not hold weights"),
        ("a.pt", [torch.zeros(2)], "does not hold weights"),
        ("a.pt", {"net": {"epoch": 3}}, "does not hold weights"),
        ("a.ckpt", b"no pickle", "cannot be read as weights"),
        ("a.pth", b"", "cannot be read as weights"),
        ("a.onnx", b"x", r"not a file of weights that poscon reads \(.safetensors, .pth"),
        ("a.safetensors", b"x", "damaged or not a poscon file"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(
    tmp_path: Path, name: str, content: Any, words: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(PosconError, match=words) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"net": Evil(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(PosconError, match="cannot be read as weights"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_safetensors_of_another_program(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(PosconError, match="are those of no network"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_tensors_on_a_full_disk_are_an_error_of_the_system(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_pickled({"weights": torch.zeros(10_000)}, tmp_path / "weights.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    save_pickled({"weights": torch.zeros(10_000)}, tmp_path / "weights.pt")
    assert torch.load(tmp_path / "weights.pt")["weights"].shape == (10_000,)
