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
from poscon.finetuning.guard import ClassGuard, class_pixels
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings
from poscon.volumes.case import IGNORE

SIZE = 16
GUARDED = [name for name in METHODS if find_method(name).has_pseudo_labels]


def test_pixels_of_every_class_in_every_slice():
    generator = np.random.default_rng(0)
    labels, counted = generator.integers(0, 4, (3, 5, 6)), generator.random((3, 5, 6)) < 0.7
    found = class_pixels(torch.from_numpy(labels), torch.from_numpy(counted), 5)
    for b, c in np.ndindex(3, 5):
        assert found[b, c] == sum(labels[b, i, j] == c for i, j in np.argwhere(counted[b]))


class SlowGuard:
    """The rule of :class:`ClassGuard`, class by class and pixel by pixel, in double precision."""

    def __init__(self, n_classes: int) -> None:
        self.since = [[0.0] * 5 for _ in range(n_classes)]
        self.ever, self.lost, self.trust = [False] * n_classes, [False] * n_classes, 1.0

    def __call__(self, labels: np.ndarray, pseudo: np.ndarray, counted: np.ndarray) -> float:
        labelled = [label for label in labels.ravel().tolist() if label != IGNORE]
        taught = [p for p, is_one in zip(pseudo.ravel(), counted.ravel(), strict=True) if is_one]
        for c, since in enumerate(self.since):
            since[0] += sum(bool((one == c).any()) for one in labels)
            since[1] += labelled.count(c)
            since[2] += len(labelled)
            since[3] += taught.count(c)
            since[4] += len(taught)
            slices, own, labelled_pixels, own_taught, taught_pixels = since
            if slices < guard.SLICES or not taught_pixels:
                continue
            found = own_taught / taught_pixels > guard.LEAST * own / labelled_pixels
            self.lost[c] = self.ever[c] and not found
            self.ever[c] |= found
            self.since[c] = [0.0] * 5
        self.trust = 0.0 if any(self.lost) else min(1.0, self.trust + 1 / guard.RISE)
        return self.trust


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_rule_is_that_of_a_loop(seed):
    """Of random labels, in which classes come and go, and where single steps count nothing."""
    generator = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "SLICES", 6)
        patch.setattr(guard, "RISE", 4)
        fast, slow = ClassGuard(4), SlowGuard(4)
        for step in range(40):
            odds = generator.random((2, 4)) < 0.7
            odds[:, 0] = True
            if step % 8 == 0:
                allowed = odds[1]
            labels = generator.choice(4, (3, 3, 4), p=odds[0] / odds[0].sum()).astype(np.uint8)
            labels[generator.random(labels.shape) < 0.2] = IGNORE
            pseudo = generator.choice(4, (2, 3, 4), p=allowed / allowed.sum())
            counted = generator.random(pseudo.shape) < generator.choice([0.0, 0.8])
            trust = fast(*map(torch.from_numpy, (labels, pseudo, counted)))
            assert float(trust) == pytest.approx(slow(labels, pseudo, counted))
            assert fast.lost.tolist() == slow.lost


def seen(found: bool, classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of eight slices with all classes, and pseudo-labels with or without the last one."""
    labels = torch.arange(classes, dtype=torch.uint8).repeat(8, 4, 1)
    pseudo = labels.long() if found else torch.zeros(8, 4, classes, dtype=torch.int64)
    return labels, pseudo, torch.ones_like(pseudo, dtype=torch.bool)


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
    for found in (True, False):
        labels, pseudo, counted = seen(found)
        for _ in range(guard.SLICES):
            watch(labels, torch.full_like(pseudo, 2) if found else pseudo, counted)
    assert not watch.found[2]
    assert not watch.lost[2]


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


# In the methods


class FullTrust(nn.Module):
    """As if there was no guard."""

    lost = torch.zeros(3, dtype=torch.bool)

    def forward(self, *_: Tensor) -> float:
        return 1.0


STILL = ViewSettings(
    mirror=False, rotation=0, scale=(1, 1), shift=0, elastic=0, noise=0.1, gamma=0
)
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
    assert train(guarded, 0, 30, 60) == train(free, 0, 30, 60)
    assert guarded.guard.found.any()
    state = free.network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in guarded.network.state_dict().items())


@pytest.mark.parametrize("name", GUARDED)
def test_while_a_class_is_lost_slices_without_labels_teach_nothing(name):
    learner = method(name)
    learner.guard.lost[1] = learner.guard.found[1] = True
    gradients = []
    for seed in (100, 200):
        slices = squares(4, 0)
        slices.unlabelled = squares(4, seed)
        learner.zero_grad()
        step = learner.step(slices, VIEWS, 3, 0.9)
        step.loss.backward()
        assert int(step.logs["lost_classes"]) == 1
        gradients.append(step)
    if name != "bcp":  # whose loss has parts of both kinds of slices in one
        for step in gradients:
            assert step.loss.item() == float(step.logs["supervised"])
