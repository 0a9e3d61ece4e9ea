"""Rotation prediction: the turns and their labels, the loss against the formula, the method."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.networks.build import build_encoder
from poscon.networks.heads import HeadSettings
from poscon.networks.settings import NetworkSettings
from poscon.pretext import find_method
from poscon.pretext.rotation import Rotation, all_rotations, rotation_labels, rotation_loss
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.training.pretrain_settings import PretrainSettings
from poscon.views import ViewMaker, ViewSettings, canvas_size

CPU = torch.device("cpu")


def slow_loss(logits):
    """Eq. 2 and 3 of Gidaris et al. 2018: images one by one, each by its four turns."""
    n = len(logits) // 4
    total = 0.0
    for i in range(n):
        loss = 0.0
        for y in range(4):
            row = logits.double()[y * n + i]
            probability = torch.exp(row[y]) / sum(torch.exp(row[k]) for k in range(4))
            loss = loss - torch.log(probability) / 4
        total = total + loss / n
    return total


def random_scores(n, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4 * n, 4, generator=generator, dtype=torch.float64).to(dtype)


# The turns


def test_the_turns_of_a_picture_by_hand():
    picture = torch.tensor([[1, 2], [3, 4]])[None, None]
    turned = all_rotations(picture)[:, 0].tolist()
    assert turned == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],  # counter-clockwise: the right column is on top now
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]
    assert rotation_labels(1, CPU).tolist() == [0, 1, 2, 3]


def test_an_arrow_turns_from_up_to_left_to_down_to_right():
    arrow = torch.zeros(1, 1, 5, 5)
    arrow[0, 0, 0, 2] = 1
    tips = [tuple(int(i) for i in t[0].nonzero()[0]) for t in all_rotations(arrow)]
    assert tips == [(0, 2), (2, 0), (4, 2), (2, 4)]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_a_label_is_the_number_of_quarter_turns(n, size, seed):
    images = torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))
    turned, labels = all_rotations(images), rotation_labels(n, CPU)
    assert turned.shape == (4 * n, 1, size, size)
    assert labels.bincount().tolist() == [n] * 4
    for row, turns in enumerate(labels.tolist()):
        original = np.rot90(turned[row, 0].numpy(), -turns)
        np.testing.assert_array_equal(original, images[row % n, 0].numpy())


# The loss


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_value_and_gradient_are_those_of_the_formula(n, seed):
    fast, slow = (random_scores(n, seed).requires_grad_() for _ in range(2))
    loss, expected = rotation_loss(fast), slow_loss(slow)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-9, atol=1e-10)


def test_right_and_wrong_answers():
    right = torch.eye(4).repeat_interleave(3, dim=0) * 50
    assert float(rotation_loss(right)) < 1e-6
    assert float(rotation_loss(right.roll(3, dims=0))) > 40
    assert float(rotation_loss(torch.zeros(12, 4))) == pytest.approx(math.log(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_only_that_of_the_input(dtype):
    logits = random_scores(8, dtype=dtype)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = rotation_loss(logits)
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(slow_loss(logits)), rel=1e-5)


# The method


SIZE = 16
VIEWS = ViewMaker(ViewSettings(noise=0.1), SIZE)


def method(width=2) -> Rotation:
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=width, levels=2))
    return Rotation(encoder, HeadSettings(), Rotation.Settings(), n_slices=8)


def batch(n=4) -> SliceBatch:
    canvas = canvas_size(SIZE, VIEWS.settings)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    return SliceBatch(images, (torch.arange(n) + 1) / n)


def test_it_is_found_by_its_name():
    assert find_method("rotation") is Rotation


def test_a_step_follows_from_its_seed():
    first, again, other = (method().step(batch(), VIEWS, seed, 0.0) for seed in (5, 5, 6))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.logs["accuracy"], again.logs["accuracy"])
    assert not torch.equal(first.loss, other.loss)


def test_a_step_leaves_the_global_generator_alone():
    rotation = method()
    before = torch.get_rng_state()
    rotation.step(batch(), VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_is_the_loss_of_all_turns_of_a_view():
    rotation, slices, seed = method(), batch(), 5
    seen = []
    rotation.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rotation.encoder.register_forward_hook(lambda *args: seen.append(args[2][-1]))
    step = rotation.step(slices, VIEWS, seed, 0.0)
    turned, bottleneck = seen
    view = VIEWS(slices.images, seed)
    torch.testing.assert_close(turned, torch.cat([view.rot90(k, (2, 3)) for k in range(4)]))
    logits = rotation.classifier(bottleneck.mean(dim=(2, 3))).detach()
    assert float(step.loss.detach()) == pytest.approx(float(slow_loss(logits)), rel=1e-5)
    hits = [int(logits[row].argmax()) == row // 4 for row in range(16)]
    assert float(step.logs["accuracy"]) == pytest.approx(np.mean(hits))
    assert step.chance == pytest.approx(math.log(4))
    assert step.floor == 0


def test_chance_is_the_loss_of_a_network_that_knows_nothing():
    rotation = method()
    torch.nn.init.zeros_(rotation.classifier.weight)
    torch.nn.init.zeros_(rotation.classifier.bias)
    step = rotation.step(batch(), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(step.chance)
    assert float(step.logs["accuracy"]) == 0.25


def test_accuracy_of_answers_that_are_all_right():
    rotation = method()
    answers = torch.eye(4).repeat_interleave(4, dim=0)
    rotation.classifier.register_forward_hook(lambda *_: answers.clone().requires_grad_())
    assert float(rotation.step(batch(), VIEWS, 0, 0.0).logs["accuracy"]) == 1


def test_every_parameter_learns():
    rotation = method()
    rotation.step(batch(), VIEWS, 0, 0.0).loss.backward()
    for name, parameter in rotation.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_under_autocast_the_loss_is_in_single_precision():
    with torch.autocast("cpu", torch.bfloat16):
        step = method().step(batch(), VIEWS, 0, 0.0)
    step.loss.backward()
    assert step.loss.dtype == torch.float32
    exact = method().step(batch(), VIEWS, 0, 0.0)
    assert float(step.loss.detach()) == pytest.approx(float(exact.loss.detach()), rel=0.05)


def test_a_few_steps_tell_the_turns_apart():
    """The loss can be learnt: it falls well below chance where pictures have an upper side."""
    rotation, slices = method(width=4), batch(8)
    height = torch.linspace(2, -2, slices.images.shape[-1])[:, None]
    slices.images = slices.images * 0.1 + height
    optimiser = torch.optim.Adam(rotation.parameters(), 0.02)
    losses, accuracies = [], []
    for seed in range(40):
        optimiser.zero_grad()
        step = rotation.step(slices, VIEWS, seed, 0.0)
        step.loss.backward()
        optimiser.step()
        losses.append(float(step.loss.detach()))
        accuracies.append(float(step.logs["accuracy"]))
    assert np.mean(losses[-5:]) < 0.5 * step.chance
    assert np.mean(accuracies[-5:]) > 0.8


@pytest.mark.parametrize(
    ("views", "message"),
    [({"rotation": 180}, "views.rotation=180"), ({"mirror": True}, "views.mirror=true")],
)
def test_views_that_hide_the_turn_are_refused(views, message):
    with pytest.raises(PosconError, match=message):
        method().check(100, ViewMaker(ViewSettings(**views), SIZE))


def test_there_is_nothing_to_set():
    with pytest.raises(PosconError, match="angles"):
        validate(Rotation.Settings, {"angles": 8})
    with pytest.raises(PosconError, match="head has no effect"):
        validate(PretrainSettings, {"method": "rotation", "head": {"dimension": 64}})
