"""``finetune --init FILE`` with weights of other programs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from safetensors.torch import save_file
from torch import Tensor

from poscon.commands.finetune import finetune
from poscon.networks.weights import read_weights

Command = Callable[..., tuple[int, str, str]]


def published(width: int = 2, channels: int = 1) -> dict[str, dict[str, Tensor]]:
    """A file of the shape that the published PCL writes: an encoder and its projection head."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    inputs = channels
    for level in range(1, 5):
        outputs = width * 2 ** (level - 1)
        for number in (1, 2):
            name = f"encoder.contr_{level}_{number}"
            found[f"{name}.0.weight"] = torch.randn(outputs, inputs, 3, 3) / 3
            found[f"{name}.0.bias"] = torch.randn(outputs)
            for key in ("weight", "bias", "running_mean", "running_var"):
                found[f"{name}.1.{key}"] = torch.rand(outputs) + 0.5
            found[f"{name}.1.num_batches_tracked"] = torch.tensor(9)
            inputs = outputs
    for number in (0, 2):
        found[f"encoder.center.{number}.weight"] = torch.randn(16 * width, inputs, 3, 3) / 3
        found[f"encoder.center.{number}.bias"] = torch.randn(16 * width)
        inputs = 16 * width
    for number in (2, 4):
        found[f"head.{number}.weight"] = torch.randn(inputs, inputs)
        found[f"head.{number}.bias"] = torch.randn(inputs)
    return {"net": found}


def start(poscon: Command, store: Path, run: Path, init: Path, *more: str) -> tuple[int, str]:
    code, _, stderr = poscon(
        "finetune", store, run, "--init", init, "--iterations", 1, "-s", "size=32",
        "-s", "batch=4", *more,
    )  # fmt: skip
    return code, stderr


def test_weights_of_another_preparation_are_told_whatever_its_keys_are(
    store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version of poscon may know of a step that this one does not, or the other way."""
    run = Path(shutil.copytree(pretrained, tmp_path / "pretrained"))
    tensors, about = read_weights(run / "encoder.safetensors")
    preparation = {**about["preparation"], "step_of_later": 1}
    del preparation["spacing"]
    words = {k: json.dumps(v) for k, v in {**about, "preparation": preparation}.items()}
    save_file(tensors, run / "encoder.safetensors", words)
    settings = ["network.width=4", "network.levels=2", "size=32"]
    finetune(store, tmp_path / "run", init=run, iterations=1, settings=settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "step_of_later 1 there, None here" in said
    assert "spacing None there, " in said


def test_a_published_checkpoint_of_pcl(store: Path, tmp_path: Path, poscon: Command) -> None:
    torch.save(published(), tmp_path / "latest.pth")
    code, stderr = start(poscon, store, tmp_path / "run", tmp_path / "latest.pth")
    assert code == 0, stderr
    assert "does not say how the slices were prepared" in stderr
    assert "4 other tensors not used (head.2.weight, head.2.bias, head.4.weight, ...)" in stderr


def test_a_basic_unet_of_monai(store: Path, tmp_path: Path, poscon: Command) -> None:
    theirs = BasicUNet(
        spatial_dims=2, features=(2, 4, 8, 16, 32, 2), norm="batch",
        act=("leakyrelu", {"negative_slope": 0.01}),
    )  # fmt: skip
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    code, stderr = start(poscon, store, tmp_path / "run", tmp_path / "model.pt")
    assert code == 0, stderr
    assert "encoder: " in stderr


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (published(channels=3), [], "has 1 image channel(s), the network takes 3"),
        (published(), ["-s", "network.width=8"], "another architecture (width 2 there, 8 here"),
        ({"net": {"fc.weight": torch.zeros(2)}}, [], "are those of no network that poscon knows"),
        (
            BasicUNet(spatial_dims=2, features=(4, 4, 8, 16, 32, 4)).state_dict(),
            [],
            "BatchNorm, with running statistics",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    store: Path, tmp_path: Path, poscon: Command, content: Any, more: list[str], words: str
) -> None:
    torch.save(content, tmp_path / "a.pth")
    code, stderr = start(poscon, store, tmp_path / "run", tmp_path / "a.pth", *more)
    assert code == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert words in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
