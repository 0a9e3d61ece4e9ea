import pytest
import torch
from torch import nn

from poscon.errors import PosconError
from poscon.networks.build import build_decoder, build_encoder, build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate

SMALL = NetworkSettings(width=2, levels=2)


def network(settings=SMALL, n_classes=3) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(settings, n_classes).eval()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_scores_have_the_extent_of_the_picture(levels, shape):
    settings = NetworkSettings(width=2, levels=levels)
    rows, columns = (n * settings.stride for n in shape)
    assert network(settings)(torch.zeros(2, 1, rows, columns)).shape == (2, 3, rows, columns)


def test_the_encoder_halves_the_extent_and_doubles_the_channels():
    settings = NetworkSettings(width=3, levels=3)
    encoder = build_encoder(settings)
    features = encoder(torch.zeros(2, 1, 16, 8))
    assert encoder.channels_of_level == (3, 6, 12, 24)
    assert [tuple(f.shape) for f in features] == [
        (2, 3, 16, 8), (2, 6, 8, 4), (2, 12, 4, 2), (2, 24, 2, 1),
    ]  # fmt: skip
    assert encoder.feature_channels == 24
    assert encoder.stride == settings.stride == 8


def test_the_architecture_of_the_paper():
    """Widths w to 16w, four poolings, two convolutions a level, normalised save the bottleneck."""
    settings = NetworkSettings(width=4, levels=4, bottleneck_norm=False)
    encoder = build_encoder(settings)
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [4, 4, 8, 8, 16, 16, 32, 32, 64, 64]
    assert all(c.kernel_size == (3, 3) for c in convolutions)
    *shallow, bottleneck = encoder.blocks
    for block in shallow:
        assert [type(m) for m in block] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 2
    assert [type(m) for m in bottleneck] == [nn.Conv2d, nn.ReLU] * 2
    assert all(m.bias is not None for m in bottleneck if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("last", [False, True])
def test_images_are_laid_out_as_the_convolutions_are(last):
    """By strides alone, which say nothing where there is one channel; pixels are the same."""
    encoder = build_encoder(SMALL)
    if last:
        encoder.to(memory_format=torch.channels_last)
    seen = []
    first = encoder.blocks[0][0]
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(3, 1, 8, 4)
    for given in (images, images.mT.contiguous().mT):
        encoder(given)
        assert torch.equal(seen[-1], given)
        if last:
            assert seen[-1].stride() == (32, 1, 4, 1)


def test_the_bottleneck_is_normalised_when_asked():
    bottleneck = build_encoder(SMALL).blocks[-1]
    assert [type(m) for m in bottleneck] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 2


def test_parameters_are_the_encoders_or_the_decoders():
    """Names are what pre-trained weights are loaded by."""
    whole = network()
    names = [*whole.state_dict()]
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder", "classifier"}
    encoder = {f"encoder.{name}" for name in build_encoder(SMALL).state_dict()}
    assert encoder == {name for name in names if name.startswith("encoder.")}
    decoder = {f"decoder.{name}" for name in build_decoder(build_encoder(SMALL)).state_dict()}
    assert decoder == {name for name in names if name.startswith("decoder.")}


def test_the_number_of_classes_touches_the_classifier_only():
    two, five = network(n_classes=2).state_dict(), network(n_classes=5).state_dict()
    different = {name for name in two if two[name].shape != five[name].shape}
    assert different == {"classifier.weight", "classifier.bias"}


def test_every_skip_reaches_the_output():
    whole = network()
    features = whole.encoder(torch.randn(1, 1, 8, 8))
    logits = whole.decoder(features)[-1]
    for level, feature in enumerate(features):
        changed = [f + (f is feature) for f in features]
        assert not torch.allclose(whole.decoder(changed)[-1], logits), level


def test_forward_is_the_decoder_of_the_encoder():
    whole, images = network(), torch.randn(2, 1, 8, 8)
    finest = whole.decoder(whole.encoder(images))[-1]
    assert torch.equal(whole(images), whole.classifier(finest))


@pytest.mark.parametrize("blocks", [1, 2, None])
def test_a_decoder_of_some_blocks_is_the_beginning_of_the_whole(blocks):
    """By name too, so that what it learnt has a place in the whole."""
    whole = network()
    part = build_decoder(whole.encoder, blocks=blocks)
    names = part.state_dict().keys()
    part.load_state_dict({k: v for k, v in whole.decoder.state_dict().items() if k in names})
    features = whole.encoder(torch.randn(1, 1, 8, 8))
    maps = part.eval()(features)
    assert len(maps) == (blocks or SMALL.levels)
    for ours, theirs in zip(maps, whole.decoder(features), strict=False):
        assert torch.equal(ours, theirs)
    assert [m.shape[-1] for m in maps] == [4, 8][:blocks]


def test_a_larger_picture_gives_the_same_scores_far_from_the_border():
    """Fully convolutional: whole slices can be segmented by what was trained on crops."""
    whole = network(NetworkSettings(width=2, levels=1))  # sees 10 pixels far
    picture = torch.randn(1, 1, 64, 64)
    inner = whole(picture[..., 16:, 16:])[..., 16:-16, 16:-16]
    torch.testing.assert_close(whole(picture)[..., 32:-16, 32:-16], inner, rtol=1e-4, atol=1e-5)


def test_initial_activations_keep_their_size():
    """He initialisation: variance neither vanishes nor explodes through the encoder."""
    torch.manual_seed(0)
    for norm in (True, False):
        settings = NetworkSettings(width=16, levels=4, bottleneck_norm=norm)
        features = build_encoder(settings).train()(torch.randn(4, 1, 64, 64))
        assert all(0.1 < float(f.detach().square().mean()) < 10 for f in features)


def test_he_initialisation():
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=32, levels=1))
    last = encoder.blocks[-1][-3]
    fan_in = last.in_channels * 9
    assert float(last.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert not any(
        m.bias.detach().any()
        for m in build_encoder(NetworkSettings(width=2, bottleneck_norm=False)).modules()
        if isinstance(m, nn.Conv2d) and m.bias is not None
    )


def test_volumes():
    settings = NetworkSettings(width=2, levels=1)
    assert build_network(settings, 3, dimensions=3)(torch.zeros(1, 1, 4, 2, 6)).shape == (
        1,
        3,
        4,
        2,
        6,
    )


@pytest.mark.parametrize("wrong", [{"width": 0}, {"levels": 0}, {"dimensions": 3}, {"depth": 2}])
def test_networks_that_cannot_be(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(NetworkSettings, wrong)
