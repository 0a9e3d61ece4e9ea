"""The guard against lost classes: its rule against a loop, and a training with and without it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from poscon.finetuning import METHODS, find_method, guard
from poscon.finetuning.base import FinetuneMethod
from poscon.finetuning.fixmatch import confident_loss, pseudo_labels
from poscon.finetuning.guard import ClassGuard, class_pixels
from poscon.finetuning.supervised import supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings
from poscon.volumes.case import IGNORE

SIZE = 16
GUARDED = [name for name in METHODS if find_method(name).has_pseudo_labels]


def test_pixels_of_every_class_in_every_slice():
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, IGNORE], (3, 5, 6)).astype(np.uint8)
    found = class_pixels(torch.from_numpy(labels), 5)
    for b, c in np.ndindex(3, 5):
        assert found[b, c] == (labels[b] == c).sum()


class FullTrust(nn.Module):
    """As if there was no guard."""

    lost = torch.zeros(3, dtype=torch.bool)

    def forward(self, *_: Tensor) -> float:
        return 1.0


class SlowGuard:
    """The rule of :class:`ClassGuard`, class by class and pixel by pixel, in double precision."""

    def __init__(self, n_classes: int) -> None:
        self.since = [[0] * 5 for _ in range(n_classes)]
        self.ever, self.lost, self.trust = [False] * n_classes, [False] * n_classes, 1.0

    def __call__(self, labels: np.ndarray, pseudo: np.ndarray, progress: float) -> float:
        if progress < guard.BEGIN:
            return 1.0
        labelled = [label for label in labels.ravel().tolist() if label != IGNORE]
        for c, since in enumerate(self.since):
            since[0] += sum(bool((one == c).any()) for one in labels)
            since[1] += labelled.count(c)
            since[2] += len(labelled)
            since[3] += pseudo.ravel().tolist().count(c)
            since[4] += pseudo.size
            slices, own, labelled_pixels, own_taught, taught_pixels = since
            if slices >= guard.SLICES:
                ratio = own_taught / taught_pixels / (own / labelled_pixels)
                if ratio > guard.FOUND:
                    self.ever[c], self.lost[c] = True, False
                elif ratio < guard.LOST and self.ever[c]:
                    self.lost[c] = True
                self.since[c] = [0] * 5
        self.trust = 0.0 if any(self.lost) else min(1.0, self.trust + 1 / guard.RISE)
        return self.trust


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_the_rule_is_that_of_a_loop(seed):
    """Of random labels, in which classes come, become rare and go."""
    generator = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "SLICES", 6)
        patch.setattr(guard, "RISE", 4)
        fast, slow = ClassGuard(4), SlowGuard(4)
        for step in range(30):
            if step % 6 == 0:
                odds = generator.choice([0.0, 0.1, 1.0], (2, 4), p=[0.3, 0.2, 0.5])
                odds[:, 0] = 1
                odds /= odds.sum(1, keepdims=True)
            labels = generator.choice(4, (3, 3, 4), p=odds[0]).astype(np.uint8)
            labels[generator.random(labels.shape) < 0.2] = IGNORE
            pseudo = generator.choice(4, (2, 3, 4), p=odds[1])
            trust = fast(torch.from_numpy(labels), torch.from_numpy(pseudo), step / 30)
            assert float(trust) == pytest.approx(slow(labels, pseudo, step / 30))
            assert fast.lost.tolist() == slow.lost


def seen(found: bool) -> tuple[Tensor, Tensor, float]:
    """Labels of eight slices with two classes, and pseudo-labels with or without the last one."""
    labels = torch.arange(2, dtype=torch.uint8).repeat(8, 4, 1)
    return labels, labels.long() if found else torch.zeros(8, 4, 2, dtype=torch.int64), 0.5


def trusts(watch: ClassGuard, found: bool, steps: int) -> list[float]:
    return [float(watch(*seen(found))) for _ in range(steps)]


def test_a_class_that_is_lost_ends_the_trust_until_it_is_back():
    watch, look = ClassGuard(2), guard.SLICES // 8
    assert set(trusts(watch, True, 3 * look)) == {1.0}
    assert set(trusts(watch, False, look)[:-1]) == {1.0}
    assert watch.lost.tolist() == [False, True]
    assert set(trusts(watch, False, 5 * look)) == {0.0}
    rising = trusts(watch, True, look + guard.RISE)[look - 1 :]
    assert not watch.lost.any()
    assert rising[: guard.RISE] == pytest.approx([(k + 1) / guard.RISE for k in range(guard.RISE)])
    assert rising[-1] == 1.0


def test_a_class_that_was_never_found_is_not_lost():
    watch = ClassGuard(2)
    assert set(trusts(watch, False, 20 * guard.SLICES // 8)) == {1.0}


def test_a_class_that_no_labelled_slice_has_is_not_looked_at():
    watch = ClassGuard(3)
    labels, pseudo, progress = seen(True)
    for other in (torch.full_like(pseudo, 2), pseudo):
        for _ in range(guard.SLICES // 4):
            watch(labels, other, progress)
    assert not watch.found[2]
    assert not watch.lost[2]


def test_what_an_untrained_network_finds_does_not_count():
    watch, look = ClassGuard(2), guard.SLICES // 8
    labels, pseudo, _ = seen(True)
    for _ in range(2 * look):
        watch(labels, pseudo, 0.09)
    assert set(trusts(watch, False, 2 * look)) == {1.0}


def test_classes_that_were_lost_lately_are_told_once():
    watch, look = ClassGuard(2), guard.SLICES // 8
    trusts(watch, True, look)
    assert watch.lost_lately() == []
    trusts(watch, False, look)
    trusts(watch, True, look)
    assert not watch.lost.any()
    assert watch.lost_lately() == [1]
    assert watch.lost_lately() == []


@pytest.mark.parametrize("interrupted", [1, 30, 45, 60, 80])
def test_its_state_is_all_that_it_needs(interrupted):
    def go(watch, first, last):
        return [float(watch(*seen(not 26 <= k < 60))) for k in range(first, last)]

    whole, first, second = ClassGuard(2), ClassGuard(2), ClassGuard(2)
    expected = go(whole, 0, 150)
    assert {0.0, 1.0} < set(expected)
    before = go(first, 0, interrupted)
    second.load_state_dict(first.state_dict())
    assert before + go(second, interrupted, 150) == expected


# A training whose class dies


def pixels(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pixels of three classes, (n, 2, 8, 8), and their labels. The last class is rare."""
    labels = torch.zeros(n, 8, 8, dtype=torch.uint8)
    labels[:, :4, :4] = 1
    labels[:, 5:7, 5:7] = 2
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    noise = torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return means[labels.long()].movedim(-1, 1) + 0.7 * noise, labels


def found_around_a_shock(watch: nn.Module) -> list[float]:
    """The share of the rare class that a network finds, before a shock, after it and in the end.

    The network is one linear layer that teaches itself as in FixMatch. The shock is a jump of its
    bias.
    """
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 1)
    optimiser = torch.optim.Adam(network.parameters(), 0.1)
    batches = [pixels(4, seed) for seed in range(5)]
    test, truth = pixels(8, 1000)

    def share() -> float:
        return float((network(test).argmax(1) == 2)[truth == 2].float().mean())

    shares = []
    for k in range(110):
        if k == 30:
            shares.append(share())
            with torch.no_grad():
                network.bias[2] -= 30
            shares.append(share())
        (images, labels), (others, _) = batches[k % 2], batches[2 + k % 3]
        taught, sure = pseudo_labels(network(others).detach(), 0.9)
        trust = watch(labels, taught, k / 110)
        strong = network(others + 0.3 * torch.randn_like(others))
        loss = supervised_loss(network(images), labels)
        loss = loss + 2 * trust * confident_loss([strong], taught, sure, "dice+ce")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [*shares, share()]


def test_a_class_that_self_training_would_not_find_again_comes_back(monkeypatch):
    monkeypatch.setattr(guard, "SLICES", 8)
    monkeypatch.setattr(guard, "RISE", 10)
    before, after, without = found_around_a_shock(FullTrust())
    assert before > 0.7
    assert after == without == 0.0
    watch = ClassGuard(3)
    assert found_around_a_shock(watch) == [before, after, pytest.approx(1, abs=0.1)]
    assert not watch.lost.any()
    assert watch.trust == 1.0


# In the methods


STILL = ViewSettings(mirror=False, rotation=0, scale=(1, 1), shift=0, elastic=0, noise=0.1, gamma=0)
VIEWS = ViewMaker(STILL, SIZE)


def squares(n: int, seed: int) -> SliceBatch:
    """Noise with a bright square of class 1 and a dark one of class 2 in each slice."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, SIZE, SIZE, generator=generator) * 0.3
    labels = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    places = torch.randint(0, SIZE - 5, (n, 2), generator=generator).tolist()
    for k, (y, x) in enumerate(places):
        for c, (i, j) in ((1, (y // 2, x)), (2, (SIZE // 2 + y // 4, SIZE - 6 - x // 2))):
            labels[k, i : i + 5, j : j + 5] = c
            images[k, 0, i : i + 5, j : j + 5] += 2.0 if c == 1 else -2.0
    return SliceBatch(images, torch.ones(n), labels)


def method(name: str, **loss: Any) -> FinetuneMethod:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=4, levels=2), 3)
    found = find_method(name)
    return found(network, validate(found.Settings, loss), 0, 0.9)


def train(learner: FinetuneMethod, first: int, last: int, total: int) -> list[float]:
    """Some steps of a training; gives the losses."""
    optimiser = torch.optim.Adam(learner.network.parameters(), 0.02)
    losses = []
    for k in range(first, last):
        slices = squares(4, k % 3)
        slices.unlabelled = squares(4, 100 + k)
        slices.unlabelled.labels = None
        optimiser.zero_grad()
        step = learner.step(slices, VIEWS, k, k / total)
        step.loss.backward()
        optimiser.step()
        learner.after_step()
        losses.append(step.loss.item())
    return losses


@pytest.mark.parametrize("name", GUARDED)
def test_a_healthy_training_is_bit_for_bit_as_without_a_guard(name, monkeypatch):
    monkeypatch.setattr(guard, "SLICES", 8)
    weight = {"weight": 0.3}
    guarded, free = method(name, **weight), method(name, **weight)
    free.guard = FullTrust()
    assert train(guarded, 0, 8, 16) == train(free, 0, 8, 16)
    assert guarded.guard.found.any()
    state = free.network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in guarded.network.state_dict().items())


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", GUARDED)
def test_while_a_class_is_lost_slices_without_labels_have_no_weight(name, lost):
    losses = []
    for weight in (0.1, 5.0):
        learner = method(name, weight=weight, **({} if name == "bcp" else {"threshold": 0.0}))
        learner.guard.lost[1] = lost
        slices = squares(4, 0)
        slices.unlabelled = squares(4, 100)
        step = learner.step(slices, VIEWS, 3, 0.9)
        assert int(step.logs["lost_classes"]) == lost
        losses.append(step.loss.item())
    assert (losses[0] == losses[1]) == lost
