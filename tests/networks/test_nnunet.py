"""nnU-Net's networks compute what they compute in nnU-Net, and fit what is built around them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_examples import network_of_nnunet, plans_of_nnunet, write_plans
from torch import nn

from poscon.errors import PosconError
from poscon.finetuning.supervised import Supervised
from poscon.networks import nnunet
from poscon.networks.build import build_decoder, build_encoder, build_network
from poscon.networks.heads import HeadSettings
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.pretext.gcl import GlobalLocalContrast
from poscon.settings import validate
from poscon.training.configuration import check_size

pytest.importorskip("dynamic_network_architectures")
KINDS = ["PlainConvUNet", "ResidualEncoderUNet"]
DEEP = {"features": [2, 4, 4, 4], "strides": [[1, 1], [2, 2], [2, 1], [2, 2]]}
"""A network whose levels 2 and 3 have pixels that are not square."""


def settings(path: Path, network: str = KINDS[0], **how: Any) -> NetworkSettings:
    plans = str(write_plans(path / "plans.json", network, **how))
    return validate(NetworkSettings, {"architecture": "nnunet", "plans": plans})


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_computes_what_nnunet_computes(kind: str, tmp_path: Path) -> None:
    """From nnU-Net's weights, with two channels: logits, and the maps of deep supervision."""
    torch.manual_seed(0)
    how: dict[str, Any] = {"features": [3, 5, 7], "channels": 2}
    theirs = network_of_nnunet(plans_of_nnunet(kind, **how), 3, deep_supervision=True).double()
    for parameter in theirs.parameters():
        parameter.normal_()
    ours = build_network(settings(tmp_path, kind, **how), 3).double()
    ours.encoder.layers.load_state_dict(theirs.encoder.state_dict(), strict=False)
    ours.decoder.ups.load_state_dict(theirs.decoder.transpconvs.state_dict())
    ours.decoder.blocks.load_state_dict(theirs.decoder.stages.state_dict(), strict=False)
    images = torch.randn(2, 2, 16, 24, dtype=torch.float64)
    features = ours.encoder(images)
    expected = theirs.encoder(images)
    assert [f.shape[1] for f in features] == [3, 5, 7] == list(ours.encoder.channels_of_level)
    for a, b in zip(features, expected, strict=True):
        torch.testing.assert_close(a, b)
    maps = ours.decoder(features)
    assert [m.shape[1] for m in maps] == list(ours.decoder.channels_of_map) == [5, 3]
    for logits, head, own in zip(
        theirs(images), reversed(theirs.decoder.seg_layers), reversed(maps), strict=True
    ):
        torch.testing.assert_close(head(own), logits)
    ours.classifier.load_state_dict(theirs.decoder.seg_layers[-1].state_dict())
    torch.testing.assert_close(ours(images), theirs(images)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_one_name_and_nnunets_start(kind: str, tmp_path: Path) -> None:
    network = build_network(settings(tmp_path, kind), 3)
    tensors = network.state_dict()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert len(tensors) == len(list(network.parameters()))
    theirs = network_of_nnunet(plans_of_nnunet(kind), 3, deep_supervision=False)
    heads = [p for name, p in theirs.named_parameters() if "seg_layers" in name]
    count = sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in heads)
    classifier = sum(p.numel() for p in network.classifier.parameters())
    assert sum(p.numel() for p in network.parameters()) == count + classifier
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None or not module.bias.any()
    zero = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d) and not m.weight.any()]
    assert len(zero) == (6 if kind == "ResidualEncoderUNet" else 0)  # the last norm of each block


def test_the_sizes_are_those_of_the_plans_without_their_file(tmp_path: Path) -> None:
    chosen = settings(tmp_path, features=[3, 6, 9, 9], channels=2)
    assert (chosen.width, chosen.levels, chosen.in_channels, chosen.stride) == (3, 3, 2, 8)
    (tmp_path / "plans.json").unlink()
    kept = json.loads(json.dumps(chosen.model_dump()))
    assert "Dataset001_x" not in str(kept)  # it may be the name of a hospital
    again = validate(NetworkSettings, kept)
    assert again == chosen
    assert build_encoder(again).channels_of_level == (3, 6, 9, 9)


def test_levels_that_are_halved_along_one_axis(tmp_path: Path) -> None:
    encoder = build_encoder(settings(tmp_path, **DEEP))
    features = encoder(torch.randn(1, 1, 32, 32))
    assert [tuple(f.shape[2:]) for f in features] == [(32, 32), (16, 16), (8, 16), (4, 8)]
    assert (encoder.stride, encoder.even_levels) == (8, 1)
    network = SegmentationNetwork(encoder, build_decoder(encoder), 3)
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)
    logits = Supervised(network, Supervised.Settings(), 2).logits(torch.randn(1, 1, 32, 32))
    assert [tuple(part.shape[2:]) for part in logits] == [(32, 32), (16, 16)]


def test_regions_need_square_pixels(tmp_path: Path) -> None:
    encoder = build_encoder(settings(tmp_path, **DEEP))
    assert (
        GlobalLocalContrast(
            encoder, HeadSettings(), GlobalLocalContrast.Settings(decoder_blocks=2), 9
        ).stride
        == 2
    )
    with pytest.raises(PosconError, match=r"decoder_blocks = 1: .* not square; use 2 or more"):
        GlobalLocalContrast(
            encoder, HeadSettings(), GlobalLocalContrast.Settings(decoder_blocks=1), 9
        )


@pytest.mark.parametrize(
    ("how", "least"),
    [
        ({}, 8),
        (DEEP, 8),  # the bottleneck of 8 x 8 pixels has 1 x 2
        ({"norm_op": "torch.nn.BatchNorm2d"}, 4),
        ({"norm_op": None, "norm_op_kwargs": None}, 4),
    ],
)
def test_one_pixel_has_no_variance(how: dict[str, Any], least: int, tmp_path: Path) -> None:
    encoder = build_encoder(settings(tmp_path, **how))
    assert encoder.least_size == least
    encoder(torch.randn(2, 1, least, least))
    check_size(least, encoder)
    with pytest.raises(PosconError, match=rf"size = {least - 1}: leaves .* use {least} or more"):
        check_size(least - 1, encoder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plans": None}, "needs the plans file of nnU-Net; give it with --set network.plans=FILE"),
        ({"context": 1}, r"network\.context = 1: nnU-Net's 2-D network sees one slice"),
        ({"width": 5}, r"network\.width = 5: the plans of nnU-Net say 2"),
        ({"levels": 3}, r"network\.levels = 3: the plans of nnU-Net say 2"),
        ({"channels": 3}, r"network\.channels = 3: the plans of nnU-Net say 1"),
        ({"blocks": (1, 1, 1)}, "blocks has no effect with architecture nnunet"),
        ({"architecture": "unet"}, "plans has no effect with architecture unet"),
    ],
)
def test_settings_that_do_not_go_together(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    plans = write_plans(tmp_path / "plans.json")
    with pytest.raises(PosconError, match=message) as found:
        validate(NetworkSettings, {"architecture": "nnunet", "plans": plans, **changed})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nonlin": "os.system"}, r"'os\.system' is no layer of torch\.nn"),
        ({"nonlin": "torch.nn.Nothing"}, r"'torch\.nn\.Nothing' is no layer"),
        ({"n_conv_per_stage": [2]}, "cannot build the network"),
        ({"surprise": 1}, "cannot build the network .*surprise"),
    ],
)
def test_arguments_that_the_library_does_not_take(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PosconError, match=message):
        build_encoder(settings(tmp_path, **arguments))


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path)
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures", None)
    monkeypatch.delitem(sys.modules, "dynamic_network_architectures.architectures", raising=False)
    with pytest.raises(PosconError, match=r"not installed; pip install 'poscon\[nnunet\]'"):
        build_encoder(chosen)


def test_it_has_two_dimensions(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="has 2 dimensions, not 3"):
        build_encoder(settings(tmp_path), 3)
    assert nnunet.NnunetEncoder.own_settings == {"plans"}
