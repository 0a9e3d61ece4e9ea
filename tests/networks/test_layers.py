"""The layers: up-sampling is the transposed convolution, number by number."""

import math

import pytest
import torch
from torch import nn

from poscon.networks.layers import UpSample2d, up_sample


def transposed(up: UpSample2d) -> nn.ConvTranspose2d:
    """The transposed convolution with the same weights."""
    outputs, inputs = len(up.bias), up.weight.shape[1]
    layer = nn.ConvTranspose2d(inputs, outputs, 2, stride=2).to(up.weight)
    with torch.no_grad():
        layer.weight.copy_(up.weight.reshape(outputs, 2, 2, inputs).permute(3, 0, 1, 2))
        layer.bias.copy_(up.bias)
    return layer


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_up_sampling_is_the_transposed_convolution(last: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    up = UpSample2d(6, 5).to(dtype)
    expected = transposed(up)
    images = torch.randn(3, 6, 4, 7, dtype=dtype)
    if last:
        up.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    out, reference = up(ours), expected(theirs)
    assert out.shape == (3, 5, 8, 14)
    torch.testing.assert_close(out, reference)
    weights = torch.randn_like(reference)
    (out * weights).sum().backward()
    (reference * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(up.bias.grad, expected.bias.grad)
    grad = up.weight.grad.reshape(5, 2, 2, 6).permute(3, 0, 1, 2)
    torch.testing.assert_close(grad, expected.weight.grad)


def test_up_sampling_starts_as_a_transposed_convolution_does() -> None:
    """Uniform within the bound of torch's own layer, weights and bias."""
    torch.manual_seed(0)
    up, reference = UpSample2d(64, 32), nn.ConvTranspose2d(64, 32, 2, stride=2)
    bound = 1 / math.sqrt(4 * 32)
    for values in (up.weight, reference.weight, up.bias, reference.bias):
        assert float(values.detach().abs().max()) <= bound
    for values in (up.weight, reference.weight):
        assert float(values.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert float(values.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(up.bias.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.3)


def test_volumes_are_up_sampled_by_torchs_own_layer() -> None:
    up = up_sample(4, 2, dimensions=3)
    assert isinstance(up, nn.ConvTranspose3d)
    assert up(torch.zeros(1, 4, 2, 3, 1)).shape == (1, 2, 4, 6, 2)
