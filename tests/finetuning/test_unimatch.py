"""UniMatch: its Dice, its perturbed features, and a step by its formula."""

import numpy as np
import pytest
import torch
from test_fixmatch import POSSIBLE, VIEWS, batch, slow_loss

from poscon.finetuning.fixmatch import cut_mix, pseudo_labels
from poscon.finetuning.unimatch import UniMatch, confident_dice, drop_channels
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate


def method(**loss) -> UniMatch:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=4, levels=2), 3)
    return UniMatch(network, validate(UniMatch.Settings, loss), 0, 0.0)


def slow_dice(logits, labels, mask):
    p = torch.softmax(logits.double(), 1).numpy()
    y, m = labels.numpy(), mask.numpy()
    losses = []
    for c in range(p.shape[1]):
        a, t = p[:, c][m], (y == c)[m].astype(float)
        losses.append(1 - (2 * (a * t).sum() + 1e-10) / ((a**2).sum() + (t**2).sum() + 1e-10))
    return float(np.mean(losses))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dice_of_the_pixels_that_count(share):
    logits, labels = torch.randn(2, 3, 6, 5), torch.randint(3, (2, 6, 5))
    mask = torch.rand(2, 6, 5) < share
    loss = confident_dice(logits, labels, mask)
    assert float(loss) == pytest.approx(slow_dice(logits, labels, mask), rel=1e-5, abs=1e-6)


def test_a_perfect_answer_costs_nothing():
    labels = torch.randint(3, (2, 6, 5))
    logits = 100.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    assert float(confident_dice(logits, labels, torch.ones_like(labels) > 0)) == pytest.approx(0)


def test_whole_channels_are_dropped_and_the_mean_stays():
    features = [torch.ones(64, 32, 3, 3), torch.ones(64, 8, 2, 2)]
    for before, after in zip(features, drop_channels(features, 0.25, 3), strict=True):
        flat = after.flatten(2)
        assert bool((flat == flat[..., :1]).all())
        assert flat.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.15)
    again = drop_channels(features, 0.25, 3)
    assert torch.equal(again[0], drop_channels(features, 0.25, 3)[0])
    assert not torch.equal(again[0], drop_channels(features, 0.25, 4)[0])


@pytest.mark.parametrize("possible", [None, POSSIBLE])
@pytest.mark.parametrize("terms", ["dice", "dice+ce", "ce"])
def test_a_step_is_that_of_the_formula(terms, possible):
    stated = {} if terms == "dice" else {"terms": terms}
    unimatch = method(threshold=0.36, cutmix=0.0, strength=0.0, **stated)
    seen = {}
    unimatch.network.register_forward_hook(lambda _, args, out: seen.update(weak=out.detach()))
    unimatch.network.classifier.register_forward_hook(
        lambda _, args, out: seen.update(last=out.detach())
    )
    given = batch()
    given.unlabelled.possible = possible
    step = unimatch.step(given, VIEWS, 5, 0.5)
    labels, confident = pseudo_labels(seen["weak"], 0.36, possible)
    _, s1, s2, perturbed = seen["last"].split(4)
    expected = sum(
        weight
        * (
            slow_dice(logits, labels, confident)
            if terms == "dice"
            else slow_loss(logits, labels, confident, terms)
        )
        for weight, logits in ((0.25, s1), (0.25, s2), (0.5, perturbed))
    )
    assert float(step.logs["consistency"]) == pytest.approx(expected, rel=1e-5)
    assert step.loss.item() == pytest.approx(
        float(step.logs["supervised"]) + 2 * expected, rel=1e-5
    )
    # without changes of intensity both strong views are the weak one; perturbed features are not
    torch.testing.assert_close(s1, s2)
    assert not torch.allclose(s1, perturbed)


@pytest.mark.parametrize("n", [2, 3])
def test_both_strong_views_have_boxes_of_other_slices(n, monkeypatch):
    shifts = []

    def noted(values, boxes, shift):
        shifts.append(shift)
        return cut_mix(values, boxes, shift)

    monkeypatch.setattr("poscon.finetuning.unimatch.cut_mix", noted)
    method(cutmix=1.0).step(batch(2, n), VIEWS, 5, 0.5)
    assert len(shifts) == 6
    assert all(shift % n for shift in shifts)
    assert len(set(shifts)) == n - 1


def test_without_perturbed_features_two_views_are_left():
    step = method(feature_dropout=0.0).step(batch(), VIEWS, 5, 0.5)
    assert torch.isfinite(step.loss)


@pytest.mark.parametrize("terms", ["dice", "dice+ce", "ce"])
def test_every_part_of_the_network_learns(terms):
    unimatch = method(threshold=0.0, terms=terms)
    unimatch.step(batch(), VIEWS, 5, 0.5).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in unimatch.network.parameters())
