"""TCSM: targets are transformed exactly as the input; then the step, and what it learns."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poscon.errors import PosconError
from poscon.finetuning.consistency import student_and_teacher_views
from poscon.finetuning.supervised import Supervised, supervised_loss
from poscon.finetuning.tcsm import (
    Transform,
    TransformationConsistency,
    apply_transform,
    draw_transform,
)
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.seeds import stream
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view_to_labels, canvas_size

SIZE = 16
VIEWS = ViewMaker(ViewSettings(), SIZE)
ONE_INTENSITY = ViewMaker(ViewSettings(brightness=0, contrast=0, gamma=0, noise=0), SIZE)
SYMMETRIES = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def random(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def all_symmetries() -> Transform:
    turns, mirrored = zip(*SYMMETRIES, strict=True)
    return Transform(torch.tensor(turns), torch.tensor(mirrored))


def slow_transform(one, turns, mirrored, zoom=None):
    """Transform one (channels, size, size); the zoom one pixel at a time."""
    if mirrored:
        one = torch.flip(one, [-1])
    one = torch.rot90(one, turns, [-2, -1])
    if zoom is None:
        return one
    size, result = one.shape[-1], torch.zeros_like(one)

    def around(index):
        """Two old pixels, and how far the new one is from the first to the second."""
        middle = (size - 1) / 2
        where = min(max(middle + (index - middle) / zoom, 0), size - 1)
        before = min(int(where), size - 2) if size > 1 else 0
        return before, min(before + 1, size - 1), where - before

    for row in range(size):
        for column in range(size):
            top, bottom, down = around(row)
            left, right, along = around(column)
            upper = (1 - along) * one[:, top, left] + along * one[:, top, right]
            lower = (1 - along) * one[:, bottom, left] + along * one[:, bottom, right]
            result[:, row, column] = (1 - down) * upper + down * lower
    return result


# The transforms


def test_turns_and_mirrors_are_exact():
    maps = random((8, 3, 6, 6))
    for row, (turns, mirrored) in enumerate(SYMMETRIES):
        expected = maps[row].flip(-1) if mirrored else maps[row]
        expected = torch.rot90(expected, turns, (-2, -1))
        assert torch.equal(apply_transform(maps, all_symmetries())[row], expected)


def test_they_are_the_eight_symmetries_of_a_square():
    one = random((1, 1, 5, 5)).expand(8, 1, 5, 5)
    results = apply_transform(one, all_symmetries()).flatten(1)
    assert len({tuple(row.tolist()) for row in results}) == 8
    assert all(torch.equal(row.sort().values, results[0].sort().values) for row in results)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 7),
    st.tuples(st.floats(0.3, 1), st.floats(1, 3)),
    st.integers(0, 10**6),
)
def test_each_map_is_transformed_by_its_own_parameters(n, channels, size, scale, seed):
    maps = random((n, channels, size, size), seed)
    transform = draw_transform(n, scale, seed)
    result = apply_transform(maps, transform)
    for row in range(n):
        zoom = None if transform.zoom is None else float(transform.zoom[row])
        expected = slow_transform(
            maps[row], int(transform.turns[row]), bool(transform.mirrored[row]), zoom
        )
        torch.testing.assert_close(result[row], expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(-3, 3))
def test_a_pointwise_linear_map_may_come_before_or_after(seed, slope, offset):
    """So what is 0 or 1 at the border stays so, which padding with zeros would not do."""
    maps, transform = random((4, 2, 7, 7), seed), draw_transform(4, (0.5, 1.5), seed)
    torch.testing.assert_close(
        apply_transform(slope * maps + offset, transform),
        slope * apply_transform(maps, transform) + offset,
    )


def test_a_pointwise_map_and_turns_may_change_places_exactly():
    maps = random((8, 2, 7, 7), dtype=torch.float32)
    assert torch.equal(
        apply_transform(maps.exp(), all_symmetries()), apply_transform(maps, all_symmetries()).exp()
    )


def test_probabilities_stay_probabilities():
    transform = draw_transform(6, (0.5, 1.5), 0)
    result = apply_transform(random((6, 3, 9, 9)).softmax(1), transform)
    torch.testing.assert_close(result.sum(1), torch.ones(6, 9, 9, dtype=torch.float64))
    assert (result >= 0).all()


def test_zoom_makes_things_larger_and_smaller():
    square = torch.zeros(2, 1, 16, 16)
    square[:, :, 5:11, 5:11] = 1
    still = Transform(torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool))
    result = apply_transform(
        square, Transform(still.turns, still.mirrored, torch.tensor([0.5, 2.0]))
    )
    assert float(result[0].sum()) == pytest.approx(36 / 4, rel=0.1)
    assert float(result[1].sum()) == pytest.approx(36 * 4, rel=0.1)
    for one in result:
        torch.testing.assert_close(one, one.flip(-1))
        torch.testing.assert_close(one, one.mT)


def test_transforms_are_drawn_evenly():
    transform = draw_transform(8000, (0.8, 1.2), 3)
    kinds = transform.turns + 4 * transform.mirrored
    assert ((kinds.bincount() - 1000).abs() < 150).all()
    assert 0.8 <= float(transform.zoom.min()) < 0.81
    assert 1.19 < float(transform.zoom.max()) <= 1.2
    assert float(transform.zoom.mean()) == pytest.approx(1, abs=0.01)


def test_transforms_follow_from_the_seed():
    before = torch.get_rng_state()
    first, again, other = (vars(draw_transform(16, (0.8, 1.2), seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_without_zoom_nothing_is_interpolated():
    assert draw_transform(3, (1, 1), 0).zoom is None
    assert draw_transform(3, (1, 1.5), 0).zoom is not None
    assert draw_transform(3, (1.5, 1.5), 0).zoom.tolist() == [1.5] * 3


def test_under_autocast_pixels_stay_where_they_are():
    maps, transform = random((3, 2, 32, 32), dtype=torch.float32), draw_transform(3, (0.8, 1.2), 0)
    with torch.autocast("cpu", torch.bfloat16):
        result = apply_transform(maps, transform)
    assert result.dtype == torch.float32
    assert torch.equal(result, apply_transform(maps, transform))


# The method


class Pointwise(nn.Module):
    """Scores of a pixel from that pixel alone, value by value."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(even_levels=0)
        self.decoder = SimpleNamespace(channels_of_map=(1,))  # nothing coarser to supervise
        self.slope = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1))
        self.offset = nn.Parameter(torch.tensor([0.1, 0.2, -0.3]).reshape(1, 3, 1, 1))

    def forward(self, images):
        return self.slope * images + self.offset


def method(network=None, width=2, **told) -> TransformationConsistency:
    torch.manual_seed(0)
    network = network or build_network(NetworkSettings(width=width, levels=2), 3)
    return TransformationConsistency(network, TransformationConsistency.Settings(**told))


def batch(n=4, views=VIEWS, seed=1) -> SliceBatch:
    """Label 1 is bright and label 2 is dark; as many slices again without labels."""
    canvas = canvas_size(SIZE, views.settings)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, (2 * n, 1, 4, 4), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, size=(canvas, canvas))[:, 0].to(torch.uint8)
    noise = torch.randn(2 * n, 1, canvas, canvas, generator=generator)
    images = torch.tensor([0.0, 2.0, -2.0])[labels.long()][:, None] + noise * 0.1
    positions = torch.arange(n) / n
    return SliceBatch(
        images[:n], positions, labels[:n], unlabelled=SliceBatch(images[n:], positions)
    )


def disagree(tcsm: TransformationConsistency) -> TransformationConsistency:
    """Give the teacher other weights than the student."""
    generator = torch.Generator().manual_seed(7)
    for parameter in tcsm.teacher.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return tcsm


@pytest.mark.parametrize("seed", range(6))
def test_a_pointwise_network_is_consistent_exactly(seed):
    """It cannot tell a turned slice from one that is not, so the loss must not either."""
    tcsm = method(Pointwise(), scale=(1, 1))
    assert float(tcsm.step(batch(), ONE_INTENSITY, seed, 1.0).logs["consistency"]) == 0


def test_a_pointwise_network_is_consistent_under_zoom_where_it_is_linear():
    """Scores near 0 are: there the softmax is linear, and only its curvature is left."""
    tcsm = method(Pointwise())
    with torch.no_grad():
        for network in (tcsm.network, tcsm.teacher.network):
            network.slope.mul_(0.01)
    consistency = float(tcsm.step(batch(), ONE_INTENSITY, 0, 1.0).logs["consistency"])
    assert 0 < consistency < 1e-8


def test_a_network_that_tells_directions_apart_is_not_consistent():
    assert float(method().step(batch(), ONE_INTENSITY, 0, 1.0).logs["consistency"]) > 1e-4


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 1.2)])
@pytest.mark.parametrize(
    ("progress", "weight"),
    [(0.15, 2 * math.exp(-5 * 0.75**2)), (0.9, 2.0)],
)
def test_a_step_is_that_of_the_formula(scale, progress, weight):
    tcsm = disagree(method(weight=2.0, ramp_up=0.6, scale=scale))
    slices, seed, seen = batch(), 5, {}
    for name in ("network", "teacher"):
        tcsm.get_submodule(name).register_forward_hook(
            lambda _, args, logits, name=name: seen.update({name: (args[0], logits.detach())})
        )
    step = tcsm.step(slices, VIEWS, seed, progress)
    student, teacher, labels = student_and_teacher_views(slices, VIEWS, seed)
    transform = draw_transform(8, scale, stream(seed, "transforms"))
    (given, logits), (given_to_teacher, theirs) = seen["network"], seen["teacher"]
    assert torch.equal(given[:4], student[:4])
    assert torch.equal(given_to_teacher, teacher)
    differences = []
    for row in range(8):
        parameters = (
            int(transform.turns[row]),
            bool(transform.mirrored[row]),
            None if transform.zoom is None else float(transform.zoom[row]),
        )
        moved = slow_transform(student[row], *parameters)
        torch.testing.assert_close(given[4 + row], moved, rtol=1e-4, atol=1e-4)
        p = logits[4 + row].double().softmax(0)
        q = slow_transform(theirs[row].double().softmax(0), *parameters)
        differences.append(float((p - q).square().mean()))
    assert len({tuple(pair) for pair in zip(transform.turns, transform.mirrored, strict=True)}) > 3
    supervised, consistency = float(supervised_loss(logits[:4], labels)), np.mean(differences)
    assert float(step.logs["supervised"]) == pytest.approx(supervised, rel=1e-5)
    assert float(step.logs["consistency"]) == pytest.approx(consistency, rel=1e-4)
    assert consistency > 1e-3
    assert float(step.loss.detach()) == pytest.approx(supervised + weight * consistency, rel=1e-5)
    assert not any(value.requires_grad for value in step.logs.values())


def test_the_supervised_term_is_that_of_supervised_training():
    tcsm, slices = method().eval(), batch()
    supervised = Supervised(tcsm.network, Supervised.Settings()).eval()
    torch.testing.assert_close(
        tcsm.step(slices, VIEWS, 5, 0.5).logs["supervised"],
        supervised.step(slices, VIEWS, 5, 0.5).loss.detach(),
    )


def test_unlabelled_slices_matter():
    """To the gradient, and even where BatchNorm does not mix them with the labelled ones."""
    seen = []
    for other in (1, 2):
        tcsm, slices = disagree(method()).eval(), batch()
        slices.unlabelled = batch(seed=other).unlabelled
        step = tcsm.step(slices, VIEWS, 5, 1.0)
        step.loss.backward()
        seen.append((step, [p.grad for p in tcsm.network.parameters()]))
    (one, gradients), (two, other_gradients) = seen
    assert torch.equal(one.logs["supervised"], two.logs["supervised"])
    assert not torch.isclose(one.logs["consistency"], two.logs["consistency"])
    assert any(not torch.allclose(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_labelled_slices_are_agreed_on_too():
    """With the same unlabelled slices, other labelled ones change the consistency."""
    tcsm, slices = disagree(method()).eval(), batch()
    consistencies = []
    for images in (slices.images, slices.images * 0):
        slices.images = images
        consistencies.append(tcsm.step(slices, VIEWS, 5, 1.0).logs["consistency"])
    assert not torch.isclose(*consistencies)


def test_labels_of_unlabelled_slices_are_not_used():
    tcsm, slices = disagree(method()).eval(), batch()
    without = tcsm.step(slices, VIEWS, 5, 1.0).loss
    slices.unlabelled.labels = slices.labels.flip(0)
    assert torch.equal(tcsm.step(slices, VIEWS, 5, 1.0).loss, without)


def test_a_step_follows_from_its_seed():
    slices, tcsm = batch(), disagree(method()).eval()
    before = torch.get_rng_state()
    first, again, other = (tcsm.step(slices, VIEWS, seed, 0.5) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in (
        (first.loss, again.loss, other.loss),
        *((first.logs[k], again.logs[k], other.logs[k]) for k in first.logs),
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_under_autocast_losses_are_of_single_precision():
    tcsm, slices = disagree(method()), batch()
    exact = tcsm.step(slices, VIEWS, 5, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        step = tcsm.step(slices, VIEWS, 5, 1.0)
    step.loss.backward()
    assert step.loss.dtype == step.logs["consistency"].dtype == torch.float32
    for name, value in step.logs.items():
        assert float(value) == pytest.approx(float(exact.logs[name]), rel=0.05), name
    assert all(p.grad.isfinite().all() for p in tcsm.network.parameters())


# Training


def test_only_the_student_learns_by_gradient():
    tcsm = disagree(method())
    tcsm.step(batch(), VIEWS, 0, 1.0).loss.backward()
    for name, parameter in tcsm.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert all(p.grad is None and not p.requires_grad for p in tcsm.teacher.parameters())


def train(tcsm, optimiser, slices, views, seeds, steps=40):
    logs = []
    for seed in seeds:
        optimiser.zero_grad()
        step = tcsm.step(slices, views, seed, seed / steps)
        step.loss.backward()
        optimiser.step()
        tcsm.after_step()
        logs.append({name: float(value) for name, value in step.logs.items()})
    return logs


def test_the_teacher_is_the_result_and_follows_the_student():
    tcsm, slices = method(decay=0.6), batch()
    assert tcsm.model is tcsm.teacher.network is not tcsm.network
    assert TransformationConsistency.uses_unlabelled
    optimiser = torch.optim.Adam(tcsm.network.parameters(), 0.05)
    train(tcsm, optimiser, slices, VIEWS, range(1))
    expected = [p.detach().clone() for p in tcsm.network.parameters()]  # the first a is 0
    for t, a in ((1, 0.5), (2, 0.6), (3, 0.6)):
        train(tcsm, optimiser, slices, VIEWS, [t])
        student = [p.detach().clone() for p in tcsm.network.parameters()]
        expected = [a * e + (1 - a) * s for e, s in zip(expected, student, strict=True)]
        for now, e in zip(tcsm.model.parameters(), expected, strict=True):
            torch.testing.assert_close(now, e)


def test_a_training_goes_on_from_its_state():
    slices, results = batch(), []
    for interrupted in (False, True):
        tcsm = method()
        optimiser = torch.optim.Adam(tcsm.network.parameters(), 0.02)
        train(tcsm, optimiser, slices, VIEWS, range(2))
        if interrupted:
            state = copy.deepcopy((tcsm.state_dict(), optimiser.state_dict()))
            tcsm = disagree(method())
            tcsm.load_state_dict(state[0])
            optimiser = torch.optim.Adam(tcsm.network.parameters(), 0.02)
            optimiser.load_state_dict(state[1])
        train(tcsm, optimiser, slices, VIEWS, range(2, 4))
        results.append(tcsm.state_dict())
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


def test_it_learns():
    """A student without an idea has a loss of log 3 and a Dice of 1/3; the teacher follows."""
    views = ViewMaker(ViewSettings(gamma=0), SIZE)
    slices, tcsm = batch(8, views), method(width=4, decay=0.9)
    optimiser = torch.optim.Adam(tcsm.network.parameters(), 0.02)
    logs = train(tcsm, optimiser, slices, views, range(40))
    assert np.mean([row["supervised"] for row in logs[-5:]]) < 0.5 * (math.log(3) + 2 / 3)
    found = tcsm.eval().model(views(slices.images, 99)).argmax(1)
    labels = apply_view_to_labels(slices.labels, views.draw(8, 99), SIZE)
    assert (found == labels).float().mean() > 0.8


def test_its_weight_makes_answers_turn_with_the_slices():
    slices, consistencies = batch(), []
    for weight in (1e-6, 30.0):
        tcsm = method(weight=weight, ramp_up=0.1)
        optimiser = torch.optim.Adam(tcsm.network.parameters(), 0.02)
        logs = train(tcsm, optimiser, slices, VIEWS, range(30))
        consistencies.append(np.mean([row["consistency"] for row in logs[-5:]]))
    assert consistencies[1] < 0.5 * consistencies[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0},
        {"ramp_up": 0},
        {"ramp_up": 1.5},
        {"decay": 1},
        {"decay": -0.1},
        {"scale": (1.2, 0.8)},
        {"scale": (0, 1)},
        {"scale": 1.2},
        {"wieght": 1},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(TransformationConsistency.Settings, wrong)
