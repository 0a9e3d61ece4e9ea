"""The weights of other U-Nets compute the same under the names of this package."""

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, conv_transpose2d, leaky_relu, max_pool2d

from poscon.errors import PosconError
from poscon.networks.build import build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.networks.translations import (
    BASIC_UNET,
    PCL,
    basic_unet,
    from_transposed,
    naming_of,
    to_transposed,
    translate,
)
from poscon.networks.weights import load_by_name

WIDTH = 2


def random_layer(conv: str, norm: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A convolution with bias and, unless ``norm`` is empty, a trained BatchNorm."""
    outputs = shape[0]
    found = {f"{conv}.weight": torch.randn(shape) / 3, f"{conv}.bias": torch.randn(outputs)}
    if norm:
        found |= {
            f"{norm}.weight": torch.rand(outputs) + 0.5,
            f"{norm}.bias": torch.randn(outputs),
            f"{norm}.running_mean": torch.randn(outputs),
            f"{norm}.running_var": torch.rand(outputs) + 0.5,
            f"{norm}.num_batches_tracked": torch.tensor(7),
        }
    return found


def published_weights(channels: int = 1, width: int = WIDTH) -> dict[str, Tensor]:
    """Weights with the names of the published network of PCL, with its decoder and both heads."""
    torch.manual_seed(0)
    widths = [channels, *(width * 2**level for level in range(5))]
    found: dict[str, Tensor] = {}
    for level in range(1, 5):
        a, b = widths[level - 1], widths[level]
        for number, inputs in ((1, a), (2, b)):
            name = f"encoder.contr_{level}_{number}"
            found |= random_layer(f"{name}.0", f"{name}.1", (b, inputs, 3, 3))
    found |= random_layer("encoder.center.0", "", (widths[5], widths[4], 3, 3))
    found |= random_layer("encoder.center.2", "", (widths[5], widths[5], 3, 3))
    for level in range(4, 0, -1):
        wide, deep = widths[level], widths[level + 1]
        up = f"decoder.upscale{level + 1}"
        found |= {
            f"{up}.weight": torch.randn(deep, wide, 2, 2) / 3,
            f"{up}.bias": torch.randn(wide),
        }
        for number, inputs in ((1, 2 * wide), (2, wide)):
            name = f"decoder.expand_{level}_{number}"
            found |= random_layer(f"{name}.0", f"{name}.1", (wide, inputs, 3, 3))
    found["decoder.head.0.weight"] = torch.randn(4, width, 1, 1)
    return {**found, "head.2.weight": torch.randn(8, 8)}


def published_maps(tensors: dict[str, Tensor], images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Features and decoder maps of that network, written from its description."""
    t = tensors

    def normed(x: Tensor, name: str) -> Tensor:
        x = conv2d(x, t[f"{name}.0.weight"], t[f"{name}.0.bias"], padding=1)
        mean, var = t[f"{name}.1.running_mean"], t[f"{name}.1.running_var"]
        x = batch_norm(x, mean, var, t[f"{name}.1.weight"], t[f"{name}.1.bias"], eps=1e-5)
        return leaky_relu(x, 0.01)

    features, x = [], images
    for level in range(1, 5):
        x = normed(normed(x, f"encoder.contr_{level}_1"), f"encoder.contr_{level}_2")
        features.append(x)
        x = max_pool2d(x, 2)
    for number in (0, 2):
        name = f"encoder.center.{number}"
        x = conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], padding=1).relu()
    features.append(x)
    maps = []
    for level in range(4, 0, -1):
        up = f"decoder.upscale{level + 1}"
        x = conv_transpose2d(x, t[f"{up}.weight"], t[f"{up}.bias"], stride=2)
        x = torch.cat([x, features[level - 1]], 1)
        x = normed(normed(x, f"decoder.expand_{level}_1"), f"decoder.expand_{level}_2")
        maps.append(x)
    return features, maps


def translated(tensors: dict[str, Tensor]) -> SegmentationNetwork:
    naming = naming_of(tensors)
    assert naming is not None
    found = translate(tensors, naming, where="a.pth")
    network = build_network(found.settings, 3).to(next(iter(tensors.values())).dtype)
    for part, values in found.parts.items():
        report = load_by_name(network.get_submodule(part), values, where="a.pth")
        assert report.missing == report.unused == ()
    return network.eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_published_network_of_pcl(channels: int) -> None:
    tensors = {name: t.double() for name, t in published_weights(channels).items()}
    network = translated(tensors)
    assert network.settings == NetworkSettings(
        width=WIDTH, levels=4, bottleneck_norm=False, channels=channels
    )
    images = torch.randn(2, channels, 16, 32, dtype=torch.float64)
    features = network.encoder(images)
    their_features, their_maps = published_maps(tensors, images)
    ours = [*features, *network.decoder(features)]
    for found, expected in zip(ours, [*their_features, *their_maps], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [32, 48])
def test_the_published_widths(width: int) -> None:
    tensors = published_weights(width=width)
    found = translate(tensors, PCL, where="a.pth")
    assert found.settings.width == width
    bottleneck = found.parts["encoder"]["blocks.4.2.weight"]
    assert torch.equal(bottleneck, tensors["encoder.center.2.weight"])


def test_what_has_no_place_is_named() -> None:
    found = translate(published_weights(), PCL, where="a.pth")
    assert set(found.unused) == {"decoder.head.0.weight", "head.2.weight"}
    assert set(found.parts) == {"encoder", "decoder"}
    encoder = {n: t for n, t in published_weights().items() if not n.startswith("decoder")}
    found = translate(encoder, PCL, where="a.pth")
    assert set(found.parts) == {"encoder"}
    assert found.unused == ("head.2.weight",)


def our_network(width: int = WIDTH, channels: int = 2) -> SegmentationNetwork:
    torch.manual_seed(1)
    network = build_network(NetworkSettings(width=width, channels=channels), 3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # those of norms begin as zeros and ones
                parameter.uniform_(0.5, 1.5)
        network(torch.randn(4, channels, 32, 32))  # running statistics
    return network.eval()


def monai_network(width: int = WIDTH, channels: int = 2, bias: bool = False) -> BasicUNet:
    return BasicUNet(
        spatial_dims=2,
        in_channels=channels,
        out_channels=3,
        features=[*(width * 2**level for level in range(5)), width],
        act=("leakyrelu", {"negative_slope": 0.01}),
        norm="batch",
        bias=bias,
    ).eval()


@torch.no_grad()
def test_monai_computes_what_this_package_does_and_gives_the_weights_back() -> None:
    network, theirs = our_network(), monai_network()
    tensors = basic_unet(network.state_dict(), WIDTH)
    theirs.load_state_dict(tensors)
    images = torch.randn(2, 2, 32, 16)
    torch.testing.assert_close(theirs(images), network(images), rtol=1e-5, atol=1e-5)
    found = translate(tensors, BASIC_UNET, where="model.pt")
    assert found.settings == network.settings
    assert found.unused == ("final_conv.weight", "final_conv.bias")
    for part, values in found.parts.items():
        expected = network.get_submodule(part).state_dict()
        assert values.keys() == expected.keys()
        assert all(torch.equal(values[name], expected[name]) for name in expected)


def test_a_network_of_monai_without_a_bias_of_its_decoder_is_one_line() -> None:
    tensors = basic_unet(our_network().state_dict(), WIDTH)
    del tensors["upcat_3.upsample.deconv.bias"]
    with pytest.raises(PosconError, match=r"but upcat_3\.upsample\.deconv\.bias is missing"):
        translate(tensors, BASIC_UNET, where="model.pt")


@torch.no_grad()
def test_of_a_network_of_monai_itself_the_encoder_is_taken() -> None:
    """Its last upsampling has twice the channels; its convolutions may have a bias."""
    torch.manual_seed(2)
    theirs = monai_network(bias=True).train()
    theirs(torch.randn(4, 2, 32, 32))
    theirs.eval()
    found = translate(theirs.state_dict(), BASIC_UNET, where="model.pt")
    assert set(found.parts) == {"encoder"}
    assert "upcat_1.upsample.deconv.weight" in found.unused
    images = torch.randn(2, 2, 32, 16)
    x = [theirs.conv_0(images)]
    for level in (1, 2, 3, 4):
        x.append(getattr(theirs, f"down_{level}")(x[-1]))
    features = translated(theirs.state_dict()).encoder(images)
    for ours, expected in zip(features, x, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_transposed_convolution_is_laid_out_both_ways() -> None:
    weight = torch.randn(4 * 3, 5, 1, 1)
    transposed = to_transposed(weight)
    for o, a, b, i in ((0, 0, 1, 2), (2, 1, 0, 4), (1, 1, 1, 0)):
        assert transposed[i, o, a, b] == weight[4 * o + 2 * a + b, i, 0, 0]
    assert torch.equal(from_transposed(transposed), weight)


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


def replaced(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("encoder.center.2.bias"), "but encoder.center.2.bias is missing"),
        (without("encoder.contr_3_1.1.running_mean"), "BatchNorm, with running statistics"),
        (
            replaced("encoder.contr_2_1.0.weight", torch.zeros(5, 2, 3, 3)),
            r"encoder.contr_2_1.0.weight has shape \(5, 2, 3, 3\), poscon's network needs "
            r"\(4, 2, 3, 3\): .* doubles",
        ),
        (replaced("encoder.contr_1_1.0.weight", torch.zeros(2, 1, 3, 3, 3)), "of 3 dimensions"),
        (replaced("encoder.contr_1_1.0.weight", torch.zeros(2, 1, 5, 5)), r"needs \(2, 1, 3, 3\)"),
        (without("decoder.expand_2_2.0.weight"), "but decoder.expand_2_2.0.weight is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    tensors = published_weights()
    change(tensors)
    with pytest.raises(PosconError, match=rf"^a\.pth: .*{words}") as caught:
        translate(tensors, PCL, where="a.pth")
    assert "\n" not in str(caught.value)


def test_the_default_network_of_monai_does_not_fit() -> None:
    theirs = BasicUNet(spatial_dims=2, features=(4, 4, 8, 16, 32, 4))
    with pytest.raises(PosconError, match=r"down_1\.convs|running statistics"):
        translate(theirs.state_dict(), BASIC_UNET, where="model.pt")


def test_other_names_are_nobodys() -> None:
    assert naming_of({"layer1.0.conv1.weight": torch.zeros(1)}) is None
    assert naming_of(published_weights()) is PCL
    assert naming_of(monai_network().state_dict()) is BASIC_UNET
