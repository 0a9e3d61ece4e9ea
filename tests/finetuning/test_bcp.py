"""Copy-paste, pseudo-labels and the loss of BCP against loops, and the method around them."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.finetuning import find_method
from poscon.finetuning.bcp import (
    BidirectionalCopyPaste,
    bidirectional_loss,
    copy_paste,
    draw_masks,
    halves,
    largest_components,
    masked_loss,
)
from poscon.finetuning.supervised import supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view, apply_view_to_labels, canvas_size

# Masks


@pytest.mark.parametrize(
    ("size", "crop", "extent"),
    [
        (256, 2 / 3, 170),  # the paper's on ACDC
        (96, 2 / 3, 64),
        (17, 2 / 3, 11),
        (15, 2 / 3, 10),
        (5, 0.5, 2),
        (16, 0.999, 15),
        (16, 0.001, 1),  # never nothing
    ],
)
def test_extent_of_the_crop(size, crop, extent):
    for mask in draw_masks(5, size, crop, seed=3):
        rows, columns = np.nonzero(~mask.numpy())
        assert len(rows) == extent**2
        assert np.ptp(rows) == np.ptp(columns) == extent - 1  # so all of a square


def test_the_crop_lies_anywhere_inside_and_nowhere_more_often():
    masks = ~draw_masks(2000, 7, 5 / 7, seed=0)
    starts = [tuple(np.argwhere(m.numpy())[0]) for m in masks]
    counts = {place: starts.count(place) for place in set(starts)}
    assert set(counts) == {(y, x) for y in range(3) for x in range(3)}
    assert all(150 < count < 300 for count in counts.values())


def test_masks_follow_from_their_seed():
    before = torch.get_rng_state()
    first, again, other = (draw_masks(6, 16, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# Copy-paste


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(2, 9), st.floats(0.01, 0.99), st.integers(0, 99))
def test_every_pixel_comes_from_the_right_source(b, size, crop, seed):
    """Each pixel of the sources has a number of its own, so the result tells where it is from."""
    labelled = torch.arange(b * size * size).reshape(b, 1, size, size)
    unlabelled = labelled + labelled.numel()
    n = (b + 1) // 2
    mask = draw_masks(n, size, crop, seed)
    mixed = copy_paste(halves(labelled), halves(unlabelled), mask[:, None])
    assert mixed.shape == (2 * n, 1, size, size)
    for k in range(n):
        last = b - n + k
        for y in range(size):
            for x in range(size):
                around = bool(mask[k, y, x])
                inwards = labelled[last] if around else unlabelled[k]
                outwards = unlabelled[last] if around else labelled[k]
                assert mixed[k, 0, y, x] == inwards[0, y, x]
                assert mixed[n + k, 0, y, x] == outwards[0, y, x]


def test_labels_are_mixed_like_their_slices():
    labelled, unlabelled = torch.randint(0, 4, (2, 5, 9, 9))
    mask = draw_masks(3, 9, 0.6, 0)
    images = copy_paste(halves(labelled[:, None]), halves(unlabelled[:, None]), mask[:, None])
    assert torch.equal(images[:, 0], copy_paste(halves(labelled), halves(unlabelled), mask))


@pytest.mark.parametrize("n", [1, 3])
def test_two_slices_that_exchange_a_crop_are_used_up(n):
    """With i = j and p = q every pixel of every source is in exactly one of the mixed slices."""
    labelled = torch.arange(n * 64).reshape(n, 8, 8)
    unlabelled = labelled + labelled.numel()
    mixed = copy_paste((labelled,) * 2, (unlabelled,) * 2, draw_masks(n, 8, 0.7, 1))
    assert sorted(mixed.flatten().tolist()) == list(range(2 * n * 64))


@pytest.mark.parametrize("b", [1, 2, 3, 8, 9])
def test_both_halves_of_any_batch(b):
    first, last = halves(torch.arange(b))
    assert len(first) == len(last) == math.ceil(b / 2)
    assert set(first.tolist()) | set(last.tolist()) == set(range(b))
    assert b == 1 or not (first == last).any()  # none is its own partner
    assert len(set(first.tolist()) & set(last.tolist())) == b % 2


# Pseudo-labels


def slow_largest_components(labels):
    """Flood fill over the eight neighbours, in the order of reading."""
    result = np.zeros_like(labels)
    for b, picture in enumerate(labels):
        best = {}
        seen = np.zeros(picture.shape, bool)
        for start in np.ndindex(picture.shape):
            if seen[start] or picture[start] == 0:
                continue
            seen[start] = True
            component, queue = [start], deque([start])
            while queue:
                y, x = queue.popleft()
                for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                    if not all(0 <= c < s for c, s in zip(near, picture.shape, strict=True)):
                        continue
                    if not seen[near] and picture[near] == picture[start]:
                        seen[near] = True
                        component.append(near)
                        queue.append(near)
            if len(component) > len(best.get(picture[start], [])):
                best[picture[start]] = component
        for index, component in best.items():
            for place in component:
                result[(b, *place)] = index
    return result


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.9]))
def test_largest_components_against_flood_fill(seed, share):
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 4, (2, 7, 9)) * (generator.random((2, 7, 9)) < share)
    kept = largest_components(torch.tensor(labels))
    assert kept.dtype == torch.int64
    np.testing.assert_array_equal(kept.numpy(), slow_largest_components(labels))


def kept(*rows):
    labels = torch.tensor([[int(c) for c in row] for row in rows])[None]
    return ["".join(map(str, row)) for row in largest_components(labels)[0].tolist()]


def test_the_larger_component_of_each_class_stays():
    assert kept("1102", "0002", "1000", "0020") == ["1102", "0002", "0000", "0000"]


def test_pixels_that_touch_at_a_corner_are_connected():
    assert kept("1000", "0100", "0011", "0000", "1110") == ["1000", "0100", "0011", "0000", "0000"]


def test_of_equal_components_the_first_stays():
    assert kept("0011", "0000", "1100") == ["0011", "0000", "0000"]


def test_absent_classes_and_empty_slices():
    assert kept("000", "000") == ["000", "000"]
    assert kept("030", "000") == ["030", "000"]


def test_slices_do_not_touch_each_other():
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :, :3] = 1
    labels[1, 3, 3] = 1
    assert torch.equal(largest_components(labels), labels)


# The loss


def slow_masked_loss(logits, labels, mask):
    """Dice per foreground class and cross-entropy, one pixel at a time, in double precision."""
    b, classes, h, w = logits.shape
    logits = logits.double()
    zero = logits.sum() * 0
    overlap = [zero for _ in range(classes)]
    total = [zero for _ in range(classes)]
    entropy, count = zero, 0
    for i in range(b):
        for y in range(h):
            for x in range(w):
                if not mask[i, y, x]:
                    continue
                exponential = [torch.exp(logits[i, c, y, x]) for c in range(classes)]
                p = [e / sum(exponential) for e in exponential]
                truth = int(labels[i, y, x])
                entropy, count = entropy - torch.log(p[truth]), count + 1
                for c in range(classes):
                    overlap[c] = overlap[c] + p[c] * (truth == c)
                    total[c] = total[c] + p[c] + (truth == c)
    dice = [1 - (2 * overlap[c] + 1e-5) / (total[c] + 1e-5) for c in range(1, classes)]
    return sum(dice) / len(dice) + entropy / max(count, 1)


def slow_loss(logits, labels, mask, weight):
    """Eq. 6, 7 and 9 of Bai et al. 2023."""
    n = len(mask)
    (q_in, q_out), (y_in, y_out) = logits.split(n), labels.split(n)
    l_in = slow_masked_loss(q_in, y_in, mask) + weight * slow_masked_loss(q_in, y_in, ~mask)
    l_out = slow_masked_loss(q_out, y_out, ~mask) + weight * slow_masked_loss(q_out, y_out, mask)
    return l_in + l_out


def example(n=2, classes=3, size=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2 * n, classes, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2 * n, size, size), generator=generator)
    return (logits * 2).to(dtype), labels, draw_masks(n, size, 0.6, seed)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 2),
    st.integers(2, 4),
    st.integers(2, 4),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_loss_and_gradient_against_a_slow_reference(n, classes, size, seed, weight):
    logits, labels, mask = example(n, classes, size, seed)
    fast, slow = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = bidirectional_loss(fast, labels, mask, weight=weight)
    expected = slow_loss(slow, labels, mask, weight)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


@pytest.mark.parametrize("fill", [True, False])
def test_masks_without_a_change(fill):
    """All or nothing: the loss of all pixels is the supervised one, that of none is 0."""
    logits, labels, _ = example()
    logits.requires_grad_()
    loss = masked_loss(logits, labels, torch.full(labels.shape, fill))
    if fill:
        torch.testing.assert_close(loss.float(), supervised_loss(logits, labels))
    else:
        loss.backward()
        assert float(loss.detach()) == 0
        assert not logits.grad.any()


def test_pixels_outside_the_mask_do_not_matter():
    logits, labels, mask = example(2)
    inside = torch.cat([mask, ~mask])
    loss = masked_loss(logits, labels, inside)
    others = torch.where(inside[:, None], logits, 100 * torch.ones_like(logits))
    torch.testing.assert_close(masked_loss(others, labels * inside, inside), loss)
    assert not torch.isclose(masked_loss(logits, labels, ~inside), loss)


def test_the_weight_is_on_the_pixels_from_unlabelled_slices():
    """Pixels of the crop in Q_in, and around it in Q_out; at weight 0 they have no gradient."""
    logits, labels, mask = example(2)
    logits.requires_grad_()
    bidirectional_loss(logits, labels, mask, weight=0.0).backward()
    assert torch.equal(logits.grad.abs().sum(1) > 0, torch.cat([mask, ~mask]))


def test_right_scores_cost_nothing_and_wrong_ones_much():
    _, labels, mask = example(classes=4)
    right = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1) * 50.0
    assert float(bidirectional_loss(right, labels, mask, weight=0.5)) == pytest.approx(0, abs=1e-3)
    assert float(bidirectional_loss(-right, labels, mask, weight=0.5)) > 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_is_only_that_of_the_input(dtype, autocast):
    logits, labels, mask = example(4, 4, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = bidirectional_loss(logits, labels, mask, weight=0.5)
    assert loss.dtype == torch.float32
    expected = bidirectional_loss(logits.double(), labels, mask, weight=0.5)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


# The method


SIZE = 16
PLAIN = ViewMaker(ViewSettings(mirror=True, noise=0.1), SIZE)


def method(seed=0, classes=3, **loss) -> BidirectionalCopyPaste:
    torch.manual_seed(seed)
    network = build_network(NetworkSettings(width=2, levels=2), classes)
    return BidirectionalCopyPaste(network, BidirectionalCopyPaste.Settings(**loss))


def batch(n=4, seed=1, labels=True, unlabelled=True, classes=3) -> SliceBatch:
    canvas = canvas_size(SIZE, PLAIN.settings)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, canvas, canvas, generator=generator)
    indices = torch.randint(0, classes, (n, canvas, canvas), generator=generator)
    others = batch(n, seed + 100, labels=False, unlabelled=False) if unlabelled else None
    return SliceBatch(
        images,
        torch.ones(n),
        indices.to(torch.uint8) if labels else None,
        unlabelled=others,
    )


def train(bcp, start, stop, *, total=8, lr=0.1, n=4):
    """Steps ``start`` to ``stop`` of ``total``, with an optimiser that carries no state."""
    optimiser = torch.optim.SGD([p for p in bcp.parameters() if p.requires_grad], lr)
    for k in range(start, stop):
        optimiser.zero_grad()
        bcp.step(batch(n, seed=k), PLAIN, stream(0, "step", k), k / total).loss.backward()
        optimiser.step()
        bcp.after_step()
    return bcp


def same(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def seen_by(network):
    """What goes into and comes out of a network from now on."""
    calls = []
    network.register_forward_hook(lambda _, args, out: calls.append((args[0].clone(), out)))
    return calls


@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_step_of_pretraining(n):
    """Labelled slices exchange crops, every pixel with the weight of a labelled one."""
    bcp, slices, seed = method(weight=0.3), batch(n), 5
    calls, teacher = seen_by(bcp.network), seen_by(bcp.teacher.network)
    step = bcp.step(slices, PLAIN, seed, 0.2)
    view = PLAIN.draw(n, seed)
    images = apply_view(slices.images, view, SIZE)
    labels = apply_view_to_labels(slices.labels, view, SIZE)
    half = (n + 1) // 2
    mask = draw_masks(half, SIZE, 2 / 3, stream(seed, "masks"))
    expected = []
    for stack, m in ((images, mask[:, None].float()), (labels, mask.long())):
        a, b = stack[:half], stack[n - half :]
        expected.append(torch.cat([b * m + a * (1 - m), a * m + b * (1 - m)]))
    mixed, targets = expected
    assert not teacher
    assert len(calls) == 1
    torch.testing.assert_close(calls[0][0], mixed)
    logits = calls[0][1].detach()
    torch.testing.assert_close(
        step.loss.detach(), bidirectional_loss(logits, targets, mask, weight=1.0)
    )


@pytest.mark.parametrize("n", [1, 4, 5])
def test_a_step_of_self_training(n):
    """Eq. 1 to 9 with the views of the step, the teacher's labels and the setting's weight."""
    bcp, slices, seed = method(weight=0.3, crop=0.5), batch(n), 5
    calls, teacher = seen_by(bcp.network), seen_by(bcp.teacher.network)
    step = bcp.step(slices, PLAIN, seed, 0.25)
    view, other = PLAIN.draw(n, seed), PLAIN.draw(n, seed, view=1)
    images = apply_view(slices.images, view, SIZE)
    labels = apply_view_to_labels(slices.labels, view, SIZE)
    unlabelled = apply_view(slices.unlabelled.images, other, SIZE)
    ((shown, answer),) = teacher
    torch.testing.assert_close(shown, unlabelled)
    pseudo = torch.tensor(slow_largest_components(answer.argmax(1).numpy()))
    assert pseudo.any()
    half = (n + 1) // 2
    mask = draw_masks(half, SIZE, 0.5, stream(seed, "masks"))
    expected = []
    for x, u, m in ((images, unlabelled, mask[:, None].float()), (labels, pseudo, mask.long())):
        i, j, p, q = x[:half], x[n - half :], u[:half], u[n - half :]
        expected.append(torch.cat([j * m + p * (1 - m), q * m + i * (1 - m)]))
    mixed, targets = expected
    assert len(calls) == 1
    torch.testing.assert_close(calls[0][0], mixed)
    logits = calls[0][1].detach()
    loss = bidirectional_loss(logits, targets, mask, weight=0.3)
    torch.testing.assert_close(step.loss.detach(), loss)
    chance = bidirectional_loss(torch.zeros_like(logits), targets, mask, weight=0.3)
    assert float(step.chance) == pytest.approx(float(chance))
    assert step.floor == 0


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_a_step_follows_from_its_seed(progress):
    before = torch.get_rng_state()
    slices = batch()
    assert torch.equal(torch.get_rng_state(), before)
    bcps = [method() for _ in range(3)]
    before = torch.get_rng_state()
    first, again, other = (
        float(bcp.step(slices, PLAIN, seed, progress).loss.detach())
        for bcp, seed in zip(bcps, (5, 5, 6), strict=True)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_the_masks_of_two_seeds_differ_in_the_same_view():
    """The place of the crop is drawn anew each step, not only the views."""
    still = ViewSettings(
        warp_probability=0, shift=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0
    )
    views, slices, bcp = ViewMaker(still, SIZE), batch(2), method()
    calls = seen_by(bcp.network)
    for seed in (1, 2, 3):
        bcp.step(slices, views, seed, 0.0)
    assert len({float(mixed[0].sum()) for mixed, _ in calls}) > 1


def test_unlabelled_slices_matter_in_the_second_stage_only():
    def loss(slices, progress):
        return float(method(pretraining=0.5).step(slices, PLAIN, 3, progress).loss.detach())

    slices, changed = batch(), batch()
    changed.unlabelled.images = changed.unlabelled.images + torch.randn_like(
        changed.unlabelled.images
    )
    without = batch(unlabelled=False)
    assert loss(slices, 0.49) == loss(changed, 0.49) == loss(without, 0.49)
    assert loss(slices, 0.5) != loss(changed, 0.5)


def test_labels_of_unlabelled_slices_are_never_used():
    slices, labelled = batch(), batch()
    labelled.unlabelled.labels = torch.full_like(labelled.labels, 250)
    for progress in (0.0, 0.9):
        a, b = (method().step(s, PLAIN, 3, progress).loss for s in (slices, labelled))
        assert torch.equal(a, b)


def test_the_teacher_starts_as_the_network_is_when_self_training_begins():
    bcp = train(method(pretraining=0.5), 0, 4)
    start = method(pretraining=0.5)
    assert same(bcp.teacher.network, start.network)  # untouched by pre-training
    assert not same(bcp.network, start.network)
    assert not bcp.self_training
    student = {k: v.clone() for k, v in bcp.network.state_dict().items()}
    asked = []
    bcp.teacher.network.register_forward_pre_hook(
        lambda teacher, _: asked.append({k: v.clone() for k, v in teacher.state_dict().items()})
    )
    bcp.step(batch(seed=4), PLAIN, 7, 0.5)
    assert bcp.self_training
    (teacher,) = asked
    assert teacher.keys() == student.keys()
    assert all(torch.equal(teacher[k], student[k]) for k in student)


def test_the_teacher_is_copied_only_once_and_then_averages():
    bcp = train(method(pretraining=0.5, decay=0.5), 0, 7)
    before = {k: v.clone() for k, v in bcp.teacher.network.named_parameters()}
    assert not same(bcp.teacher.network, bcp.network)
    train(bcp, 7, 8)
    for name, value in bcp.teacher.network.named_parameters():
        average = (before[name] + bcp.network.get_parameter(name)) / 2
        torch.testing.assert_close(value, average.detach())


@pytest.mark.parametrize("interrupted", [2, 4, 5, 7])
def test_a_resumed_run_is_as_an_uninterrupted_one(interrupted):
    """Before the switch of the stages, at it, after it; all that is carried is in the state."""
    whole = train(method(pretraining=0.5), 0, 8)
    first = train(method(pretraining=0.5), 0, interrupted)
    second = method(seed=1, pretraining=0.5)
    second.load_state_dict(first.state_dict())
    assert same(train(second, interrupted, 8), whole)


def test_without_pretraining_the_teacher_labels_from_the_first_step():
    bcp = train(method(pretraining=0.0), 0, 1)
    assert bcp.self_training


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_every_parameter_of_the_network_learns_and_none_of_the_teacher(progress):
    bcp = method()
    bcp.step(batch(), PLAIN, 0, progress).loss.backward()
    for name, parameter in bcp.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for name, parameter in bcp.teacher.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    assert bcp.model is bcp.network


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_a_step_in_low_precision(progress):
    losses = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = method().step(batch(), PLAIN, 0, progress)
        assert step.loss.dtype == torch.float32
        losses.append(float(step.loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_chance_is_the_loss_of_a_network_without_an_opinion():
    bcp = method()
    torch.nn.init.zeros_(bcp.network.classifier.weight)
    step = bcp.step(batch(), PLAIN, 0, 0.0)
    assert float(step.chance) == pytest.approx(float(step.loss.detach()), rel=1e-5)


def squares(n, seed):
    """Noise with a bright square of class 1 in each slice."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, SIZE, SIZE, generator=generator) * 0.3
    labels = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    for k, (y, x) in enumerate(torch.randint(0, SIZE - 6, (n, 2), generator=generator)):
        labels[k, y : y + 6, x : x + 6] = 1
    return SliceBatch(images + 2 * labels[:, None], torch.ones(n), labels)


def test_some_steps_teach_both_stages():
    views = ViewMaker(ViewSettings(rotation=0, shift=0, elastic=0, gamma=0), SIZE)
    bcp = method(classes=2, pretraining=0.5)
    optimiser = torch.optim.Adam(bcp.network.parameters(), 0.02)
    shares = []
    for k in range(60):
        slices = squares(4, k % 2)
        slices.unlabelled = squares(4, 100 + k)
        slices.unlabelled.labels = None
        optimiser.zero_grad()
        step = bcp.step(slices, views, k, k / 60)
        step.loss.backward()
        optimiser.step()
        bcp.after_step()
        shares.append(float(step.loss.detach()) / step.chance)
    assert np.mean(shares[25:30]) < 0.5
    assert np.mean(shares[-5:]) < 0.3
    test = squares(8, 1000)
    found = bcp.model.eval()(test.images).argmax(1)
    assert (found == test.labels).float().mean() > 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0},
        {"crop": 1},
        {"weight": -0.1},
        {"pretraining": -0.1},
        {"pretraining": 1},
        {"decay": 1},
        {"decay": -0.1},
        {"alpha": 0.5},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(BidirectionalCopyPaste.Settings, wrong)


def test_it_is_found_by_name_and_asks_for_unlabelled_slices():
    found = find_method("bcp")
    assert found is BidirectionalCopyPaste
    assert found.uses_unlabelled
