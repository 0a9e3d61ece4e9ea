"""``--to nnunet``: what nnU-Net asks of a file of pre-trained weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_examples import network_of_nnunet, plans_of_nnunet, write_plans
from torch import nn

from poscon.commands.export import export
from poscon.commands.finetune import finetune
from poscon.commands.pretrain import pretrain
from poscon.errors import PosconError
from poscon.exports.nnunet import whole_network
from poscon.exports.trained import read_trained
from poscon.networks.weights import read_weights

pytest.importorskip("dynamic_network_architectures")
pytestmark = pytest.mark.usefixtures("no_picture")
Runs = Callable[..., Path]


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Runs:
    """Pre-trains nnU-Net's network for an epoch."""

    def made(method: str = "pcl", network: str = "PlainConvUNet", **settings: Any) -> Path:
        plans = write_plans(tmp_path / "plans.json", network)
        folder = tmp_path / method
        given = {"network": {"architecture": "nnunet", "plans": str(plans)}, "size": 32}
        epochs = None if method == "random" else 1
        pretrain(store, folder, method=method, epochs=epochs, seed=5, settings=given | settings)
        plans.unlink()  # nothing needs it any more
        return folder

    return made


def taken_by_nnunet(network: nn.Module, file: Path) -> None:
    """Load a file as nnU-Net 2.8 does with ``-pretrained_weights``, with the same conditions."""
    weights = torch.load(file, map_location="cpu", weights_only=True)["network_weights"]
    own = network.state_dict()
    for name, tensor in own.items():
        if ".seg_layers." not in name:
            assert name in weights, name
            assert weights[name].shape == tensor.shape, name
    assert set(weights) == {name for name in own if ".seg_layers." not in name}
    network.load_state_dict({**own, **weights})


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_nnunet_takes_the_encoder_that_was_trained(kind: str, run: Runs, tmp_path: Path) -> None:
    folder = run(network=kind, batch=24)
    export(folder, tmp_path / "out", to="nnunet")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pretrained.pth", "MODEL_CARD.md", "cases.json"
    }  # fmt: skip
    theirs = network_of_nnunet(plans_of_nnunet(kind), 4, deep_supervision=True)
    taken_by_nnunet(theirs, tmp_path / "out" / "pretrained.pth")
    trained = read_trained(folder)
    images = torch.randn(2, 1, 32, 24)
    with torch.no_grad():
        for a, b in zip(theirs.encoder(images), trained.encoder(images), strict=True):
            torch.testing.assert_close(a, b)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert f"It fits a `{kind}` with the features 2, 4, 8 and 1 input channel(s)." in card
    assert "The decoder was not trained, and has the random start of seed 5." in card
    assert "Dataset001_x" not in card
    assert len(json.loads((tmp_path / "out" / "cases.json").read_text())) == 5


def test_a_decoder_that_was_not_trained_is_that_of_a_fine_tuning(
    run: Runs, store: Path, tmp_path: Path
) -> None:
    """With the seed of the pre-training, before its first step."""
    folder = run("random")
    whole = whole_network(read_trained(folder))
    frozen = {"size": 32, "batch": 2, "ema_decay": 0, "optimiser": {"lr": 1e-30, "weight_decay": 0}}
    finetune(
        store, tmp_path / "fine", init=folder, labelled=2, iterations=1, seed=5, settings=frozen
    )
    tensors, _ = read_weights(tmp_path / "fine" / "model.safetensors")
    for name, tensor in whole.network.decoder.state_dict().items():
        torch.testing.assert_close(tensors[f"decoder.{name}"], tensor)
    assert len(whole.untrained) == len(whole.network.decoder.state_dict())


@pytest.mark.parametrize(
    ("method", "settings", "untrained"),
    [("mae", {}, 0), ("gcl", {"loss": {"decoder_blocks": 1, "region": 1}}, 10)],
)
def test_a_decoder_that_was_trained(
    method: str, settings: dict[str, Any], untrained: int, run: Runs, tmp_path: Path
) -> None:
    folder = run(method, batch=24, **settings)
    export(folder, tmp_path / "out", to="nnunet")
    theirs = network_of_nnunet(plans_of_nnunet(), 4, deep_supervision=False)
    taken_by_nnunet(theirs, tmp_path / "out" / "pretrained.pth")
    tensors, _ = read_weights(folder / "decoder.safetensors")
    assert torch.equal(theirs.decoder.transpconvs[0].weight, tensors["ups.0.weight"])
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    words = (
        f"{untrained} of the 20 tensors of the decoder were not trained"
        if untrained
        else "Encoder and decoder were trained."
    )
    assert words in card


def test_another_network_is_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(PosconError, match=r"'unet' is not nnU-Net's; pre-train with --set"):
        export(pretrained, tmp_path / "out", to="nnunet")
    assert not (tmp_path / "out").exists()
