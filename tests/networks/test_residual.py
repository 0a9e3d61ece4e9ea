"""The residual encoder, against a slow one written out here."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, leaky_relu

from poscon.errors import PosconError
from poscon.networks.build import build_decoder, build_encoder, build_network
from poscon.networks.residual import ResidualBlock, ResidualEncoder
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate

SMALL = NetworkSettings(architecture="residual", width=3, levels=2)


def normed(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 1), (4, 6, 2)])
def test_a_block_is_two_convolutions_beside_a_shortcut(
    inputs: int, outputs: int, stride: int
) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(inputs, outputs, 2, stride=stride).double().eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, inputs, 8, 6, dtype=torch.float64)
    first, norm1, _, second, norm2 = block.residual
    y = leaky_relu(normed(conv2d(x, first.weight, stride=stride, padding=1), norm1))
    y = normed(conv2d(y, second.weight, padding=1), norm2)
    short = avg_pool2d(x, 2) if stride == 2 else x
    if inputs != outputs:
        point, norm = block.shortcut[-2:]
        short = normed(conv2d(short, point.weight), norm)
    torch.testing.assert_close(block(x), leaky_relu(y + short))


def test_levels_halve_the_extent_and_double_the_channels() -> None:
    encoder = build_encoder(SMALL)
    assert isinstance(encoder, ResidualEncoder)
    features = encoder(torch.zeros(2, 1, 16, 8))
    assert [tuple(f.shape) for f in features] == [(2, 3, 16, 8), (2, 6, 8, 4), (2, 12, 4, 2)]
    assert encoder.channels_of_level == (3, 6, 12)


@pytest.mark.parametrize(
    ("settings", "counts"), [({}, (1, 3, 4, 6, 6, 6)), ({"blocks": (1, 1, 2, 1, 1, 3)}, None)]
)
def test_deeper_levels_have_more_blocks(settings: dict, counts: tuple[int, ...] | None) -> None:
    chosen = NetworkSettings(architecture="residual", width=1, levels=5, **settings)
    encoder = build_encoder(chosen)
    assert tuple(len(level) for level in encoder.levels) == (counts or chosen.blocks)


def test_the_decoder_has_one_convolution_at_each_level() -> None:
    decoder = build_decoder(build_encoder(SMALL))
    for block in decoder.blocks:
        assert [type(m) for m in block] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]


def test_logits_have_the_extent_of_the_picture_and_every_parameter_a_gradient() -> None:
    network = build_network(SMALL.model_copy(update={"channels": 2, "context": 1}), 3)
    logits = network(torch.randn(2, 6, 8, 12))
    assert logits.shape == (2, 3, 8, 12)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_volumes() -> None:
    network = build_network(SMALL, 3, dimensions=3)
    assert network(torch.zeros(1, 1, 8, 4, 12)).shape == (1, 3, 8, 4, 12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bottleneck_norm": False}, "bottleneck_norm has no effect with architecture residual"),
        ({"blocks": (1, 2)}, "blocks has 2 number"),
        ({"blocks": (1, 2, 0)}, "blocks"),
        ({"architecture": "unet", "blocks": (1, 2, 2)}, "blocks has no effect with .* unet"),
        ({"architecture": "residul"}, "did you mean 'residual'"),
    ],
)
def test_networks_that_cannot_be(wrong: dict, message: str) -> None:
    with pytest.raises(PosconError, match=message):
        validate(NetworkSettings, {"architecture": "residual", "levels": 2, **wrong})
