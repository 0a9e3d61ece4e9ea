"""What is not labelled has no effect on the loss of any fine-tuning method."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from poscon import finetuning
from poscon.finetuning import mixup as mixup_module
from poscon.finetuning.base import FinetuneMethod
from poscon.finetuning.bcp import bidirectional_loss
from poscon.finetuning.mixup import soft_supervised_loss
from poscon.finetuning.supervised import masked_loss, supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings
from poscon.volumes.case import IGNORE

SIZE, CUT = 16, 8  # columns; those before the cut are not labelled
STILL = ViewMaker(
    ViewSettings(
        mirror=False, rotation=0, scale=(1, 1), shift=0, elastic=0, intensity_probability=0
    ),
    SIZE,
)
NO_CONSISTENCY = {"mean-teacher": {"weight": 1e-30}, "bcp": {"weight": 0.0}}
"""Where a loss without labels has its place on labelled pixels too."""


def build(name: str, **loss: float) -> FinetuneMethod:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=2, levels=3), 3)
    method = finetuning.find_method(name)
    return method(network, method.Settings(**loss), 2, 0.0 if method.has_own_ema else 0.9)


def batch(seed: int = 0) -> SliceBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 1, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 3, (4, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    without = SliceBatch(
        torch.randn(4, 1, SIZE, SIZE, generator=generator), torch.linspace(0, 1, 4)
    )
    return SliceBatch(images, torch.linspace(0.1, 1, 4), labels, unlabelled=without)


def watched(method: FinetuneMethod) -> list[torch.Tensor]:
    """The logits of every resolution that the next step makes; filled by it."""
    seen: list[torch.Tensor] = []
    plain = method.logits_of

    def watching(features):
        logits = plain(features)
        for part in logits:
            part.retain_grad()
        seen.extend(logits)
        return logits

    method.logits_of = watching  # type: ignore[method-assign]
    return seen


def slow_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Dice and cross-entropy over a list of labelled pixels."""
    pixels = [tuple(at) for at in np.argwhere(labels != IGNORE)]
    p = np.array([np.exp(logits[i, :, y, x]) for i, y, x in pixels])
    p /= p.sum(1, keepdims=True)
    y = np.array([labels[at] for at in pixels])
    entropy = -np.mean([np.log(row[k]) for row, k in zip(p, y, strict=True)])
    dice = [
        1 - (2 * (p[:, k] * (y == k)).sum() + 1e-5) / (p[:, k].sum() + (y == k).sum() + 1e-5)
        for k in range(1, logits.shape[1])
    ]
    return float(np.mean(dice) + entropy)


def example(seed: int = 0, ignored: float = 0.4):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, 4, 5, 6))
    labels = generator.integers(0, 4, (3, 5, 6))
    labels[generator.random(labels.shape) < ignored] = IGNORE
    return torch.tensor(logits), torch.tensor(labels)


def everywhere(labels: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(labels, dtype=torch.bool)


# The losses


def test_only_labelled_pixels_count_against_a_slow_reference():
    logits, labels = example()
    expected = slow_loss(logits.numpy(), labels.numpy())
    assert float(masked_loss(logits, labels, everywhere(labels))) == pytest.approx(expected)
    assert float(supervised_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_a_mask_and_what_is_not_labelled_come_together():
    logits, labels = example()
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = slow_loss(logits.numpy(), torch.where(mask, labels, IGNORE).numpy())
    assert float(masked_loss(logits, labels, mask)) == pytest.approx(expected)


def test_where_all_is_labelled_it_is_monais_loss():
    logits, labels = example(ignored=0)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    expected = float(loss(logits.float(), labels[:, None]))
    assert float(supervised_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).double()
    soft = float(soft_supervised_loss(logits, one_hot, everywhere(labels)))
    assert soft == pytest.approx(expected, rel=1e-5)
    entropy = float(torch.nn.functional.cross_entropy(logits, labels))
    assert float(supervised_loss(logits, labels, "ce")) == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("terms", ["dice+ce", "ce"])
def test_logits_of_unlabelled_pixels_change_nothing(terms):
    logits, labels = example()
    other = torch.where((labels == IGNORE)[:, None], torch.randn_like(logits) * 9, logits)
    assert float(supervised_loss(logits, labels, terms)) == float(
        supervised_loss(other, labels, terms)
    )


def test_soft_targets_of_unlabelled_pixels_change_nothing():
    logits, labels = example()
    known = labels != IGNORE
    one_hot = torch.nn.functional.one_hot(labels.masked_fill(~known, 0), 4).movedim(-1, 1)
    other = torch.where(known[:, None], one_hot, one_hot.flip(1))
    found = [float(soft_supervised_loss(logits, y, known)) for y in (one_hot, other)]
    assert found[0] == found[1] == pytest.approx(slow_loss(logits.numpy(), labels.numpy()))


def test_mixed_labels_carry_what_is_not_labelled():
    logits, labels = example()
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[:, :2] = True
    logits, labels = (torch.cat([part, part[:1]]) for part in (logits, labels))
    parts = [(slice(0, 2), mask, 1), (slice(0, 2), ~mask, 0.5)]
    parts += [(slice(2, 4), ~mask, 1), (slice(2, 4), mask, 0.5)]
    expected = sum(
        weight * slow_loss(logits[rows].numpy(), torch.where(m, labels[rows], IGNORE).numpy())
        for rows, m, weight in parts
    )
    assert float(bidirectional_loss(logits, labels, mask, weight=0.5)) == pytest.approx(expected)


@pytest.mark.parametrize("terms", ["dice+ce", "ce"])
def test_no_labelled_pixel_costs_nothing(terms):
    logits, labels = example(ignored=2)
    logits.requires_grad_()
    loss = supervised_loss(logits, labels, terms)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# The methods


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("name", finetuning.METHODS)
def test_no_gradient_comes_from_unlabelled_pixels(name, progress):
    """At every resolution, in all slices whose loss comes from labels."""
    method = build(name, **NO_CONSISTENCY.get(name, {}))
    seen = watched(method)
    slices = batch()
    assert slices.labels is not None
    slices.labels[:, :, :CUT] = IGNORE
    method.step(slices, STILL, 0, progress).loss.backward()
    assert len(seen) == (6 if name == "fixmatch" else 3)  # it has strong views apart
    for part in seen[:3]:
        assert part.grad is not None
        gradient, cut = part.grad[:4].abs(), CUT * part.shape[-1] // SIZE
        assert gradient[..., :cut].max() < 1e-20
        assert gradient[..., cut:].max() > 1e-6


@pytest.mark.parametrize("progress", [0.0, 0.9])
@pytest.mark.parametrize("name", finetuning.METHODS)
def test_labels_count_as_long_as_they_are_there(name, progress):
    """The same labels give the same loss, others give another, and none gives a finite one."""
    losses = []
    for first, second in ((0, 1), (0, 1), (0, 2), (IGNORE, IGNORE)):
        slices = batch()
        assert slices.labels is not None
        slices.labels[:, :, :CUT], slices.labels[:, :, CUT:] = first, second
        step = build(name).step(slices, STILL, 0, progress)
        step.loss.backward()
        losses.append(float(step.loss.detach()))
    assert losses[0] == losses[1] != losses[2]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", ["supervised", "mixup"])
def test_a_batch_without_any_label_costs_nothing(name):
    slices = batch()
    assert slices.labels is not None
    slices.labels[:] = IGNORE
    method = build(name)
    loss = method.step(slices, STILL, 0, 0.5).loss
    loss.backward()
    assert float(loss.detach()) == 0
    gradients = [p.grad for p in method.network.parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_a_mixed_pixel_is_labelled_if_both_are():
    """Half of the slices are labelled on the left, half on the right: no pair of both counts."""
    slices = batch()
    assert slices.labels is not None
    slices.labels[:2, :, :CUT] = IGNORE
    slices.labels[2:, :, CUT:] = IGNORE
    method = build("mixup")
    seen = watched(method)
    with pytest.MonkeyPatch.context() as patch:
        drawn = (torch.tensor([2, 1, 0, 3]), torch.full((4,), 0.6))
        patch.setattr(mixup_module, "draw_pairs", lambda *_: drawn)
        method.step(slices, STILL, 0, 0.0).loss.backward()
    gradient = seen[0].grad
    assert gradient is not None
    assert not gradient[[0, 2]].any()
    assert gradient[1, :, :, CUT:].any()
    assert not gradient[1, :, :, :CUT].any()
