"""The teacher against the formula of its average, and what the methods with a teacher share."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.networks.unet import NetworkSettings, UNet
from poscon.semisup.teacher import (
    Teacher,
    consistency_loss,
    probabilities,
    ramp_up,
    student_and_teacher_views,
)
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view_to_labels, canvas_size

SIZE = 16


def network(seed=0) -> UNet:
    torch.manual_seed(seed)
    return UNet(NetworkSettings(width=2, levels=2), 3)


def change(student: UNet, seed: int) -> None:
    """What a step of the optimiser does to weights, and a forward pass to BatchNorm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in student.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator))
            else:
                value.add_(1)


# The average


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_the_average_is_that_of_the_formula(decay):
    """Ten steps: with 0.6 the rising a meets the decay, with 0.99 it is a plain mean."""
    student = network()
    teacher = Teacher(student, decay)
    expected = {name: value.double() for name, value in student.state_dict().items()}
    history = []
    for t in range(10):
        change(student, t)
        a = min(decay, 1 - 1 / (t + 1))
        history.append(copy.deepcopy(student.state_dict()))
        for name, value in student.state_dict().items():
            expected[name] = a * expected[name] + (1 - a) * value.double()
        teacher.update(student)
        for name, value in teacher.network.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            else:  # how many batches BatchNorm has seen
                assert torch.equal(value, student.state_dict()[name])
    name = "encoder.blocks.0.0.weight"
    average = teacher.network.state_dict()[name]
    if decay == 0.99:
        torch.testing.assert_close(average, torch.stack([h[name] for h in history]).mean(0))
    if decay == 0:
        assert torch.equal(average, student.state_dict()[name])


def test_running_statistics_are_averaged_too():
    student = network()
    teacher = Teacher(student, 0.5)
    for t in range(2):
        change(student, t)
        teacher.update(student)
    name = "encoder.blocks.0.1.running_mean"
    before = teacher.network.state_dict()[name].clone()
    change(student, 2)
    teacher.update(student)
    expected = (before + student.state_dict()[name]) / 2
    torch.testing.assert_close(teacher.network.state_dict()[name], expected)


def test_it_starts_as_a_copy_of_its_own():
    student = network()
    teacher = Teacher(student, 0.99)
    images = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    student.eval(), teacher.eval()
    before = teacher(images)
    torch.testing.assert_close(before, student(images))
    change(student, 0)
    assert torch.equal(teacher(images), before)
    assert not torch.allclose(teacher(images), student(images))


def test_it_forgets_the_initial_weights_in_the_first_step():
    student = network()
    teacher = Teacher(network(1), 0.99)
    teacher.update(student)
    for ours, theirs in zip(teacher.network.parameters(), student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_has_no_gradient():
    student = network()
    teacher = Teacher(student, 0.99)
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.randn(2, 1, SIZE, SIZE, requires_grad=True)).requires_grad


def test_in_training_it_normalises_by_the_batch():
    """As the student does: what it says of a batch does not hang on running statistics."""
    teacher = Teacher(network(), 0.99).train()
    images = torch.randn(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    before = teacher(images)
    for name, buffer in teacher.network.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(10)
    torch.testing.assert_close(teacher(images), before)


def test_it_goes_on_from_its_state():
    students = [network(), network()]
    teacher = Teacher(students[0], 0.99)
    for t in range(3):
        change(students[0], t)
        teacher.update(students[0])
    again = Teacher(network(1), 0.99)
    again.load_state_dict(copy.deepcopy(teacher.state_dict()))
    assert int(again.step) == 3
    change(students[0], 3)
    for one in (teacher, again):
        one.update(students[0])
    for name, value in teacher.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


# Ramp-up and consistency


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_ramp_up_is_that_of_the_formula(progress, share):
    t = progress / share if progress < share else 1.0
    assert ramp_up(progress, share) == pytest.approx(math.exp(-5 * (1 - t) * (1 - t)))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_ramp_up_never_falls(one, other, share):
    assert ramp_up(min(one, other), share) <= ramp_up(max(one, other), share) <= 1


def test_ramp_up_from_its_start_to_its_end():
    assert ramp_up(0, 0.4) == pytest.approx(0.006737947)
    assert ramp_up(0.2, 0.4) == pytest.approx(math.exp(-1.25))
    assert ramp_up(0.4, 0.4) == ramp_up(0.99, 0.4) == 1


def scores_of(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)


def slow_consistency(scores, targets):
    """The mean squared difference, one value at a time."""
    b, c, h, w = scores.shape
    total = 0.0
    for i in range(b):
        for y in range(h):
            for x in range(w):
                exponential = [torch.exp(scores[i, k, y, x]) for k in range(c)]
                for k in range(c):
                    p = exponential[k] / sum(exponential)
                    total = total + (p - targets[i, k, y, x]) ** 2
    return total / (b * c * h * w)


@settings(deadline=None, max_examples=25)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 10**6),
)
def test_consistency_against_a_slow_reference(shape, seed):
    targets = probabilities(scores_of(shape, seed + 1))
    fast, slow = (scores_of(shape, seed).requires_grad_() for _ in range(2))
    loss, expected = consistency_loss(fast, targets), slow_consistency(slow, targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_consistency_from_0_to_its_largest():
    """All the same: 0. Sure of one class and of another: 2 of 3 classes are wrong by 1."""
    scores = scores_of((2, 3, 4, 4))
    assert float(consistency_loss(scores, probabilities(scores))) == 0
    sure = torch.full((2, 3, 4, 4), -100.0)
    sure[:, 0] = 100
    assert float(consistency_loss(sure, probabilities(sure.flip(1)))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_only_that_of_the_input(dtype):
    scores, others = scores_of((2, 3, 4, 4), dtype=dtype), scores_of((2, 3, 4, 4), 1, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = consistency_loss(scores, probabilities(others))
    assert loss.dtype == torch.float32
    expected = consistency_loss(scores.double(), probabilities(others.double()))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


# Views


def batch(told: ViewSettings, n=3) -> SliceBatch:
    canvas = canvas_size(SIZE, told)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2 * n, 1, canvas, canvas, generator=generator)
    labels = torch.randint(0, 3, (n, canvas, canvas), generator=generator, dtype=torch.uint8)
    positions = torch.arange(n) / n
    unlabelled = SliceBatch(images[n:], positions)
    return SliceBatch(images[:n], positions, labels, unlabelled=unlabelled)


GEOMETRY = ViewSettings(brightness=0, contrast=0, gamma=0, noise=0)


def test_student_and_teacher_see_the_same_place():
    views = ViewMaker(GEOMETRY, SIZE)
    student, teacher, _ = student_and_teacher_views(batch(GEOMETRY), views, 5)
    assert student.shape == (6, 1, SIZE, SIZE)
    assert torch.equal(student, teacher)


def test_student_and_teacher_see_it_at_different_intensities():
    told = ViewSettings(noise=0, gamma=0)
    student, teacher, _ = student_and_teacher_views(batch(told), ViewMaker(told, SIZE), 5)
    for one, other in zip(student.flatten(1), teacher.flatten(1), strict=True):
        assert (one - other).abs().max() > 0.01
        # a gain and an offset is all that there is between them
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) > 0.9999


def test_labelled_slices_are_seen_as_in_supervised_training():
    told = ViewSettings()
    slices, views = batch(told), ViewMaker(told, SIZE)
    student, _, labels = student_and_teacher_views(slices, views, 5)
    assert torch.equal(student[:3], views(slices.images, 5))
    assert torch.equal(labels, apply_view_to_labels(slices.labels, views.draw(3, 5), SIZE))


def test_unlabelled_slices_are_seen_in_views_of_their_own():
    slices, views = batch(GEOMETRY), ViewMaker(GEOMETRY, SIZE)
    slices.unlabelled.images = slices.images
    student, _, _ = student_and_teacher_views(slices, views, 5)
    assert not torch.allclose(student[:3], student[3:])


def test_views_follow_from_the_seed():
    told = ViewSettings()
    slices, views = batch(told), ViewMaker(told, SIZE)
    before = torch.get_rng_state()
    first, again, other = (student_and_teacher_views(slices, views, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
