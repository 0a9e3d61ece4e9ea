import numpy as np
import pytest
import torch
from knowledge import linear_cka


def slow_cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the N x N Gram matrices: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), Kornblith Eq. 3."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, other = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return float(np.trace(k @ other) / np.sqrt(np.trace(k @ k) * np.trace(other @ other)))


def test_it_is_the_alignment_of_the_gram_matrices() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 5)), generator.normal(size=(30, 8))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(slow_cka(x, y))


def test_turning_scaling_and_shifting_features_changes_nothing() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(30, 5))
    turned = 3 * x @ np.linalg.qr(generator.normal(size=(5, 5)))[0] + 2
    assert linear_cka(torch.tensor(x), torch.tensor(turned)) == pytest.approx(1)
