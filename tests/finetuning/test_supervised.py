import numpy as np
import pytest
import torch

from poscon.finetuning.supervised import Supervised, supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings


def slow_loss(logits: np.ndarray, labels: np.ndarray, terms: str) -> float:
    """Cross-entropy per pixel, and soft Dice per foreground class over the whole batch."""
    exponential = np.exp(logits - logits.max(1, keepdims=True))
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
    logits = generator.normal(size=(3, 4, 5, 6))
    labels = generator.integers(0, 4, (3, 5, 6))
    labels[2] = 0  # a slice without any class
    loss = supervised_loss(torch.tensor(logits), torch.tensor(labels), terms)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(slow_loss(logits, labels, terms), rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float() * 100
    assert float(supervised_loss(logits, labels)) == pytest.approx(0, abs=1e-4)


def test_a_step_follows_from_its_seed() -> None:
    torch.manual_seed(0)
    method = Supervised(build_network(NetworkSettings(width=2, levels=2), 3), Supervised.Settings())
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


def test_the_average_of_the_weights_is_the_result() -> None:
    """By the formula of the moving average, with its rising decay."""
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=2, levels=1), 3)
    method = Supervised(network, Supervised.Settings(), ema_decay=0.6)
    weight = network.classifier.weight
    expected = weight.detach().clone()
    for step in range(5):
        torch.nn.init.normal_(weight)
        method.after_step()
        a = min(0.6, 1 - 1 / (step + 1))
        expected = a * expected + (1 - a) * weight.detach()
    assert method.model is not network
    torch.testing.assert_close(method.model.classifier.weight, expected)


def test_without_an_average_the_last_weights_are_the_result() -> None:
    network = build_network(NetworkSettings(width=2, levels=1), 3)
    method = Supervised(network, Supervised.Settings())
    method.after_step()
    assert method.model is network
