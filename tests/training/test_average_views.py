"""Predictions averaged over views, against slow references."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.training.average_views import VIEWS, affine, averaged_probabilities, warped
from poscon.training.inference import predicted_classes


def slowly_warped(image: np.ndarray, turn: float, zoom: float) -> np.ndarray:
    """Linear interpolation at turned and zoomed places, pixel by pixel."""
    rows, columns = image.shape
    angle, found = math.radians(turn), np.zeros_like(image)
    for r in range(rows):
        for c in range(columns):
            x, y = c - (columns - 1) / 2, r - (rows - 1) / 2
            u = zoom * (math.cos(angle) * x - math.sin(angle) * y) + (columns - 1) / 2
            v = zoom * (math.sin(angle) * x + math.cos(angle) * y) + (rows - 1) / 2
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < rows and 0 <= j < columns:
                        found[r, c] += (1 - abs(v - i)) * (1 - abs(u - j)) * image[i, j]
    return found


@pytest.mark.parametrize(("turn", "zoom"), [(10.0, 1.12), (-10.0, 0.9), (90.0, 1.0)])
def test_a_view_is_turned_and_zoomed_around_the_middle(turn: float, zoom: float) -> None:
    image = np.random.default_rng(0).random((9, 14))
    found = warped(torch.from_numpy(image[None, None]).float(), affine(turn, zoom))
    np.testing.assert_allclose(found[0, 0].numpy(), slowly_warped(image, turn, zoom), atol=1e-5)


class Threshold(nn.Module):
    """Calls bright pixels class 1. It sees each pixel alone, so turning changes nothing."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([1 - images, images], dim=1) * 20 - 10


def test_views_are_turned_back() -> None:
    rows, columns = np.mgrid[:40, :48]
    disc = ((rows - 12) ** 2 + (columns - 30) ** 2 < 60).astype(np.float32)  # not in the middle
    images = torch.from_numpy(disc)[None, None]
    found = averaged_probabilities(Threshold(), images)[0]  # type: ignore[arg-type]
    agree = (found[1] > found[0]).numpy() == disc.astype(bool)
    assert (~agree).sum() < 0.1 * disc.sum()
    inner = (rows - 12) ** 2 + (columns - 30) ** 2 < 20
    assert found[1].numpy()[inner].min() > 0.95  # every view says so, at the same place
    assert found.sum(0).max() <= 1 + 1e-5
    np.testing.assert_allclose(found.sum(0)[20, 24], 1, atol=1e-5)


def test_the_slice_itself_is_the_first_view() -> None:
    assert VIEWS[0] == (0, 1)
    assert len(set(VIEWS)) == 9


def test_the_class_of_the_highest_mean_probability_is_predicted() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=2, levels=2), 3).eval()
    stack = torch.randn(3, 1, 16, 12)
    with torch.no_grad():
        expected = averaged_probabilities(network, stack).argmax(1).numpy()
        alone = network(stack).argmax(1).numpy()
    found = predicted_classes(network, stack, 12, average_views=True)
    np.testing.assert_array_equal(found, expected)
    assert (found != alone).any()
