"""FixMatch: pseudo-labels, CutMix, strong views, and a step by its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.finetuning.fixmatch import (
    FixMatch,
    agreement,
    cut_mix,
    draw_boxes,
    pseudo_labels,
    ramp,
    stronger,
)
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings

VIEWS = ViewMaker(ViewSettings(), 16)


def batch(n: int = 4, unlabelled: int = 4, seed: int = 0) -> SliceBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n + unlabelled, 1, 24, 24, generator=generator)
    labels = torch.randint(3, (n, 24, 24), generator=generator, dtype=torch.uint8)
    positions = torch.linspace(0.1, 1, n + unlabelled)
    rest = SliceBatch(images[n:], positions[n:])
    return SliceBatch(images[:n], positions[:n], labels, unlabelled=rest)


def method(ema_decay: float = 0.9, **loss) -> FixMatch:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=4, levels=2), 3)
    return FixMatch(network, validate(FixMatch.Settings, loss), 0, ema_decay)


def test_pseudo_labels_are_the_most_probable_classes():
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    labels, confident = pseudo_labels(logits, 0.4)
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    for b, i, j in np.ndindex(2, 5, 6):
        assert labels[b, i, j] == p[b, :, i, j].argmax()
        assert confident[b, i, j] == (p[b, :, i, j].max() >= 0.4)
    assert confident.any()
    assert not confident.all()


def test_pseudo_labels_know_which_classes_are_possible():
    """Against Bayes' rule pixel by pixel: p(c | possible) = p(c) / p(possible)."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(4, 3, 5, 6, dtype=torch.float64)
    possible = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]]).bool()
    labels, confident = pseudo_labels(logits, 0.7, possible)
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    raised = 0
    for b, i, j in np.ndindex(4, 5, 6):
        total = sum(p[b, c, i, j] for c in range(3) if possible[b, c])
        q = [p[b, c, i, j] / total if possible[b, c] else 0.0 for c in range(3)]
        assert labels[b, i, j] == np.argmax(q)
        assert confident[b, i, j] == (max(q) >= 0.7)
        raised += max(q) >= 0.7 > p[b, :, i, j].max()
    assert raised > 0
    whole = pseudo_labels(logits, 0.7)
    assert all(torch.equal(a[0], b[0]) for a, b in zip((labels, confident), whole, strict=True))


def test_where_only_background_is_possible_it_is_certain():
    logits = torch.full((1, 3, 2, 2), 80.0)
    logits[:, 0] = -80.0  # the softmax in single precision is 0
    labels, confident = pseudo_labels(logits, 0.99, torch.tensor([[True, False, False]]))
    assert (labels == 0).all()
    assert confident.all()


@given(st.integers(0, 2**40), st.integers(8, 40))
def test_a_box_is_a_rectangle_of_the_area_and_aspect_asked_for(seed, size):
    boxes = draw_boxes(5, size, seed, probability=1.0, area=(0.1, 0.3), aspect=(0.5, 2.0))
    for box in boxes:
        rows, columns = box.any(1), box.any(0)
        height, width = int(rows.sum()), int(columns.sum())
        assert bool((box == rows[:, None] & columns).all())
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()
        # each side is rounded to whole pixels
        assert (height - 0.5) * (width - 0.5) <= 0.3 * size**2
        assert (height + 0.5) * (width + 0.5) >= 0.1 * size**2
        assert (height - 0.5) / (width + 0.5) <= 2.0
        assert (height + 0.5) / max(width - 0.5, 0.5) >= 0.5


def test_a_box_is_drawn_as_often_as_asked_and_anywhere():
    boxes = draw_boxes(4000, 10, 3, probability=0.25, area=(0.25, 0.25), aspect=(1.0, 1.0))
    has = boxes.flatten(1).any(1)
    assert 0.22 < float(has.float().mean()) < 0.28
    corners = {tuple(np.argwhere(box.numpy())[0]) for box in boxes[has]}
    assert corners == {(i, j) for i in range(6) for j in range(6)}
    assert not draw_boxes(50, 10, 3, probability=0, area=(0.2, 0.2), aspect=(1, 1)).any()


@pytest.mark.parametrize("threshold", [0.0, 0.45, 1.1])
def test_agreement_is_the_dice_of_the_foreground_with_equal_classes(threshold):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    labels, confidence = torch.randint(3, (2, 6, 5)), torch.rand(2, 6, 5)
    confident = confidence >= threshold
    same = found = sought = 0
    for index in np.ndindex(2, 6, 5):
        if confident[index]:
            best = int(logits[(index[0], slice(None), *index[1:])].argmax())
            same += best == int(labels[index]) and best > 0
            found += best > 0
            sought += int(labels[index]) > 0
    expected = 2 * float(same) / float(found + sought) if found + sought else 1.0
    assert float(agreement(logits, labels, confident)) == pytest.approx(expected, abs=1e-6)


def test_cut_mix_takes_the_box_from_the_next_row():
    images, labels = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 4), torch.arange(3)
    labels = labels[:, None, None].expand(3, 4, 4)
    boxes = torch.zeros(3, 4, 4, dtype=torch.bool)
    boxes[:, 1:3, :2] = True
    mixed, mixed_labels = cut_mix(images, boxes, 1), cut_mix(labels, boxes, 1)
    for i in range(3):
        assert (mixed[i][:, boxes[i]] == (i + 1) % 3).all()
        assert (mixed[i][:, ~boxes[i]] == i).all()
        assert torch.equal(mixed_labels[i].float(), mixed[i, 0])


def test_strong_views_change_intensity_more_and_geometry_alike():
    views = ViewSettings(brightness=0.1, blur=1.0, low_resolution=2.0, intensity_probability=0.3)
    strong = stronger(views, 2.0)
    assert (strong.brightness, strong.blur, strong.low_resolution) == (0.2, 2.0, 3.0)
    assert (strong.intensity_probability, stronger(views, 9).intensity_probability) == (0.6, 1.0)
    assert strong.rotation == views.rotation
    none = stronger(views, 0.0)
    assert (none.noise, none.gamma, none.low_resolution) == (0, 0, 1)


@pytest.mark.parametrize(("progress", "weight"), [(0, 0), (0.1, 0), (0.2, 0.5), (0.3, 1), (0.9, 1)])
def test_the_weight_rises_between_two_moments(progress, weight):
    assert ramp(progress, 0.1, 0.3) == pytest.approx(weight)
    assert ramp(progress, 0.0, 0.0) == 1


def slow_loss(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, terms: str = "dice+ce"
) -> float:
    """Cross-entropy of the pixels of a mask, and Dice, in float64, class by class."""
    p = torch.softmax(logits.double(), 1).numpy()
    y, m = labels.numpy(), mask.numpy()
    entropy = [-np.log(p[b, y[b, i, j], i, j]) for b, i, j in np.argwhere(m)]
    if terms == "ce":
        return float(np.mean(entropy))
    dice = []
    for c in range(1, p.shape[1]):
        a, t = p[:, c][m], (y == c)[m]
        dice.append(1 - (2 * (a * t).sum() + 1e-5) / (a.sum() + t.sum() + 1e-5))
    return float(np.mean(dice) + (np.mean(entropy) if entropy else 0))


POSSIBLE = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]]).bool()


@pytest.mark.parametrize("possible", [None, POSSIBLE])
@pytest.mark.parametrize("terms", ["ce", "dice+ce"])
@pytest.mark.parametrize(("teacher", "threshold"), [("ema", 0.55), ("self", 0.36)])
def test_a_step_is_that_of_the_formula(teacher, threshold, terms, possible):
    stated = {} if terms == "ce" else {"terms": terms}
    fixmatch = method(threshold=threshold, weight=0.7, ramp_up=(0, 0), teacher=teacher, **stated)
    with torch.no_grad():
        fixmatch.ema.network.classifier.bias += torch.tensor([0.5, 0.0, -0.5])
    seen = []
    for network in {"ema": (fixmatch.network, fixmatch.ema.network), "self": (fixmatch.network,)}[
        teacher
    ]:
        network.register_forward_hook(lambda _, args, out: seen.append((args[0], out.detach())))
    given = batch()
    given.unlabelled.possible = possible
    step = fixmatch.step(given, VIEWS, 5, 0.5)
    (weak, taught), (_, own_answers), *_, (strong, answers) = seen
    labels, confident = pseudo_labels(taught, threshold, possible)
    assert 0 < float(confident.float().mean()) < 1
    assert strong.shape == (4, 1, 16, 16)
    # what lies in a box is the next slice's, image, pseudo-label and confidence alike
    boxes = draw_boxes(
        4, 16, seed_of_boxes(5), probability=1.0, area=(0.25, 0.25), aspect=(1.0, 1.0)
    )
    mixed = [cut_mix(part, boxes, 1) for part in (labels, confident)]
    own = fixmatch.labelled_view(batch(), VIEWS, 5)[1]
    supervised = slow_loss(own_answers, own, torch.ones_like(own, dtype=torch.bool))
    consistency = slow_loss(answers, *mixed, terms)
    assert float(step.logs["supervised"]) == pytest.approx(supervised, rel=1e-5)
    assert float(step.logs["consistency"]) == pytest.approx(consistency, rel=1e-5)
    assert step.loss.item() == pytest.approx(supervised + 0.7 * consistency, rel=1e-5)
    assert not torch.equal(weak, strong)


@pytest.mark.parametrize("teacher", ["ema", "self"])
def test_strong_views_do_not_change_the_running_statistics(teacher):
    """Else BatchNorm expects the noise and the blur of strong views in every scan.

    Scans without labels count as they are, once per step.
    """
    fixmatch, alone = method(threshold=0.0, ramp_up=(0, 0), teacher=teacher), method()
    given = batch()
    fixmatch.step(given, VIEWS, 5, 0.5).loss.backward()
    images = [alone.labelled_view(given, VIEWS, 5)[0]]
    weak = alone.weak_view(given.unlabelled, VIEWS, stream(5, "unlabelled"))[0]
    images.insert(1 if teacher == "ema" else 0, weak)
    for part in images:
        alone.network(part)
    expected = dict(alone.network.named_buffers())
    assert any(name.endswith("running_var") for name in expected)
    for name, value in fixmatch.network.named_buffers():
        torch.testing.assert_close(value, expected[name])


def seed_of_boxes(seed: int) -> int:
    return stream(stream(seed, "unlabelled"), "strong", 1)


def test_no_gradient_reaches_the_network_through_the_pseudo_labels():
    fixmatch = method(ramp_up=(0, 0), threshold=0.0)
    fixmatch.step(batch(), VIEWS, 0, 0.5).loss.backward()
    assert all(p.grad is None for p in fixmatch.ema.network.parameters())
    assert all(p.grad is not None for p in fixmatch.network.parameters())


def test_before_the_ramp_the_unlabelled_slices_do_not_count():
    steps = [method(threshold=0.0).step(batch(), VIEWS, 0, progress) for progress in (0.05, 0.2)]
    assert steps[0].loss.item() == float(steps[0].logs["supervised"])
    assert steps[1].loss.item() > float(steps[1].logs["supervised"])


def test_more_unlabelled_slices_than_labelled_ones():
    step = method(ramp_up=(0, 0)).step(batch(2, 6), VIEWS, 0, 0.5)
    assert torch.isfinite(step.loss)


def test_a_single_unlabelled_slice_has_nothing_to_be_mixed_with():
    step = method(ramp_up=(0, 0)).step(batch(4, 1), VIEWS, 0, 0.5)
    assert torch.isfinite(step.loss)


def test_a_teacher_that_is_an_average_needs_one():
    with pytest.raises(PosconError, match="ema_decay = 0"):
        method(ema_decay=0.0).check(10, VIEWS)
    method(ema_decay=0.0, teacher="self").check(10, VIEWS)


@pytest.mark.parametrize(
    "loss",
    [{"ramp_up": [0.5, 0.1]}, {"box_area": [0, 0.5]}, {"box_aspect": [2, 1]}, {"teacher": "both"}],
)
def test_settings_that_cannot_be_meant(loss):
    with pytest.raises(PosconError):
        validate(FixMatch.Settings, loss)
