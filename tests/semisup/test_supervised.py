import numpy as np
import pytest
import torch

from poscon.errors import PosconError
from poscon.networks.unet import NetworkSettings, UNet
from poscon.semisup.supervised import Supervised, deep_supervision_loss, supervised_loss
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings


def slow_loss(scores: np.ndarray, labels: np.ndarray, terms: str) -> float:
    """Cross-entropy per pixel, and soft Dice per foreground class over the whole batch."""
    exponential = np.exp(scores - scores.max(1, keepdims=True))
    p = exponential / exponential.sum(1, keepdims=True)
    b, c, h, w = p.shape
    entropy = [
        -np.log(p[i, labels[i, y, x], y, x]) for i in range(b) for y in range(h) for x in range(w)
    ]
    if terms == "ce":
        return float(np.mean(entropy))
    dice = []
    for k in range(1, c):
        truth = labels == k
        overlap = (p[:, k] * truth).sum()
        dice.append(1 - (2 * overlap + 1e-5) / (p[:, k].sum() + truth.sum() + 1e-5))
    return float(np.mean(dice) + np.mean(entropy))


@pytest.mark.parametrize("terms", ["dice+ce", "ce"])
def test_against_a_slow_reference(terms: str) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(3, 4, 5, 6))
    labels = generator.integers(0, 4, (3, 5, 6))
    labels[2] = 0  # a slice without any class
    loss = supervised_loss(torch.tensor(scores), torch.tensor(labels), terms)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(slow_loss(scores, labels, terms), rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float() * 100
    assert float(supervised_loss(scores, labels)) == pytest.approx(0, abs=1e-4)


def test_a_step_follows_from_its_seed() -> None:
    torch.manual_seed(0)
    method = Supervised(UNet(NetworkSettings(width=2, levels=2), 3), Supervised.Settings())
    method.eval()
    batch = SliceBatch(
        torch.randn(4, 1, 24, 24),
        torch.rand(4),
        torch.randint(0, 3, (4, 24, 24), dtype=torch.uint8),
    )
    views = ViewMaker(ViewSettings(), 16)
    first, again, other = (
        float(method.step(batch, views, seed, 0.0).loss.detach()) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_deep_supervision_is_the_weighted_mean_over_resolutions() -> None:
    generator = np.random.default_rng(0)
    scores = [generator.normal(size=(2, 3, 8 // 2**k, 8 // 2**k)) for k in range(3)]
    labels = generator.integers(0, 3, (2, 8, 8))
    coarse = [labels[:, :: 2**k, :: 2**k] for k in range(3)]
    parts = [slow_loss(s, y, "dice+ce") for s, y in zip(scores, coarse, strict=True)]
    expected = (4 * parts[0] + 2 * parts[1] + parts[2]) / 7
    loss = deep_supervision_loss([torch.tensor(s) for s in scores], torch.tensor(labels))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    alone = deep_supervision_loss([torch.tensor(scores[0])], torch.tensor(labels))
    assert float(alone) == pytest.approx(parts[0], rel=1e-5)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_every_parameter_learns_with_deep_supervision(levels: int) -> None:
    torch.manual_seed(0)
    network = UNet(NetworkSettings(width=2, levels=3), 3)
    method = Supervised(network, Supervised.Settings(deep_supervision=levels))
    batch = SliceBatch(
        torch.randn(4, 1, 24, 24),
        torch.rand(4),
        torch.randint(0, 3, (4, 24, 24), dtype=torch.uint8),
    )
    method.step(batch, ViewMaker(ViewSettings(), 16), 0, 0.0).loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
    assert len(method.coarse) == levels
    assert method.model is network


def test_more_resolutions_than_the_network_has() -> None:
    network = UNet(NetworkSettings(width=2, levels=2), 3)
    with pytest.raises(PosconError, match="has 1 coarser resolutions"):
        Supervised(network, Supervised.Settings(deep_supervision=2))
