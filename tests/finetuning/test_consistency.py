"""What the methods that agree with a teacher share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.finetuning.consistency import (
    consistency_loss,
    probabilities,
    ramp_up,
    student_and_teacher_views,
)
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view_to_labels, canvas_size

SIZE = 16


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


def logits_of(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)


def slow_consistency(logits, targets):
    """The mean squared difference, one value at a time."""
    b, c, h, w = logits.shape
    total = 0.0
    for i in range(b):
        for y in range(h):
            for x in range(w):
                exponential = [torch.exp(logits[i, k, y, x]) for k in range(c)]
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
    targets = probabilities(logits_of(shape, seed + 1))
    fast, slow = (logits_of(shape, seed).requires_grad_() for _ in range(2))
    loss, expected = consistency_loss(fast, targets), slow_consistency(slow, targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_consistency_from_0_to_its_largest():
    """All the same: 0. Sure of one class and of another: 2 of 3 classes are wrong by 1."""
    logits = logits_of((2, 3, 4, 4))
    assert float(consistency_loss(logits, probabilities(logits))) == 0
    sure = torch.full((2, 3, 4, 4), -100.0)
    sure[:, 0] = 100
    assert float(consistency_loss(sure, probabilities(sure.flip(1)))) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_only_that_of_the_input(dtype):
    logits, others = logits_of((2, 3, 4, 4), dtype=dtype), logits_of((2, 3, 4, 4), 1, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = consistency_loss(logits, probabilities(others))
    assert loss.dtype == torch.float32
    expected = consistency_loss(logits.double(), probabilities(others.double()))
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
