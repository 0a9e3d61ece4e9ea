"""The mean teacher's step against its formula, its average, and what it learns from."""

import copy
import math

import numpy as np
import pytest
import torch

from poscon.errors import PosconError
from poscon.finetuning.consistency import student_and_teacher_views
from poscon.finetuning.mean_teacher import MeanTeacher
from poscon.finetuning.supervised import Supervised, supervised_loss
from poscon.networks.build import build_network
from poscon.networks.settings import NetworkSettings
from poscon.settings import validate
from poscon.step import SliceBatch
from poscon.views import ViewMaker, ViewSettings, apply_view_to_labels, canvas_size

SIZE = 16
VIEWS = ViewMaker(ViewSettings(), SIZE)
ONE_INTENSITY = ViewMaker(ViewSettings(brightness=0, contrast=0, gamma=0, noise=0), SIZE)


def method(width=2, **told) -> MeanTeacher:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(width=width, levels=2), 3)
    return MeanTeacher(network, MeanTeacher.Settings(**told))


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


def disagree(mean_teacher: MeanTeacher) -> MeanTeacher:
    """Give the teacher other weights than the student."""
    generator = torch.Generator().manual_seed(7)
    for parameter in mean_teacher.teacher.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return mean_teacher


def gradients(mean_teacher: MeanTeacher) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in mean_teacher.network.named_parameters()}


# A step


@pytest.mark.parametrize(
    ("progress", "weight"),
    [
        (0.0, 2 * math.exp(-5)),
        (0.15, 2 * math.exp(-5 * 0.75**2)),
        (0.6, 2.0),
        (0.9, 2.0),
    ],
)
def test_a_step_is_that_of_the_formula(progress, weight):
    mean_teacher, slices, seed = disagree(method(weight=2.0, ramp_up=0.6)), batch(), 5
    seen = {}
    for name in ("network", "teacher"):
        mean_teacher.get_submodule(name).register_forward_hook(
            lambda _, args, logits, name=name: seen.update({name: (args[0], logits)})
        )
    step = mean_teacher.step(slices, VIEWS, seed, progress)
    student, teacher, labels = student_and_teacher_views(slices, VIEWS, seed)
    assert torch.equal(seen["network"][0], student)
    assert torch.equal(seen["teacher"][0], teacher)
    logits, theirs = (seen[name][1].detach() for name in ("network", "teacher"))
    supervised = float(supervised_loss(logits[:4], labels))
    p, q = (np.exp(s.double().numpy()) for s in (logits, theirs))
    p, q = (e / e.sum(1, keepdims=True) for e in (p, q))
    consistency = np.mean([(a - b) ** 2 for a, b in zip(p.ravel(), q.ravel(), strict=True)])
    assert float(step.logs["supervised"]) == pytest.approx(supervised, rel=1e-5)
    assert float(step.logs["consistency"]) == pytest.approx(consistency, rel=1e-4)
    assert consistency > 1e-3
    assert float(step.loss.detach()) == pytest.approx(supervised + weight * consistency, rel=1e-5)
    assert not any(value.requires_grad for value in step.logs.values())


def test_the_supervised_term_is_that_of_supervised_training():
    mean_teacher, slices = method().eval(), batch()
    supervised = Supervised(mean_teacher.network, Supervised.Settings()).eval()
    torch.testing.assert_close(
        mean_teacher.step(slices, VIEWS, 5, 0.5).logs["supervised"],
        supervised.step(slices, VIEWS, 5, 0.5).loss.detach(),
    )


def test_a_copy_that_sees_the_same_says_the_same():
    step = method().step(batch(views=ONE_INTENSITY), ONE_INTENSITY, 5, 1.0)
    assert float(step.logs["consistency"]) == 0


def test_another_intensity_makes_a_copy_say_something_else():
    assert float(method().step(batch(), VIEWS, 5, 1.0).logs["consistency"]) > 1e-5


def test_unlabelled_slices_matter():
    """To the gradient, and even where BatchNorm does not mix them with the labelled ones."""
    seen = []
    for other in (1, 2):
        mean_teacher, slices = disagree(method(weight=1.0)).eval(), batch()
        slices.unlabelled = batch(seed=other).unlabelled
        step = mean_teacher.step(slices, VIEWS, 5, 1.0)
        step.loss.backward()
        seen.append((step, gradients(mean_teacher)))
    (one, gradient), (two, other_gradient) = seen
    assert torch.equal(one.logs["supervised"], two.logs["supervised"])
    assert not torch.isclose(one.logs["consistency"], two.logs["consistency"])
    assert any(not torch.allclose(gradient[name], other_gradient[name]) for name in gradient)


def test_labelled_slices_are_agreed_on_too():
    """With the same unlabelled slices, other labelled ones change the consistency."""
    mean_teacher, slices = disagree(method()).eval(), batch(views=ONE_INTENSITY)
    consistencies = []
    for images in (slices.images, slices.images * 0):
        slices.images = images
        step = mean_teacher.step(slices, ONE_INTENSITY, 5, 1.0)
        consistencies.append(step.logs["consistency"])
    assert not torch.isclose(*consistencies)


def test_labels_of_unlabelled_slices_are_not_used():
    mean_teacher, slices = disagree(method()).eval(), batch()
    without = mean_teacher.step(slices, VIEWS, 5, 1.0).loss
    slices.unlabelled.labels = slices.labels.flip(0)
    assert torch.equal(mean_teacher.step(slices, VIEWS, 5, 1.0).loss, without)


def test_a_step_follows_from_its_seed():
    slices, mean_teacher = batch(), disagree(method()).eval()
    first, again, other = (mean_teacher.step(slices, VIEWS, seed, 0.5) for seed in (5, 5, 6))
    for a, b, c in (
        (first.loss, again.loss, other.loss),
        *((first.logs[k], again.logs[k], other.logs[k]) for k in first.logs),
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_step_leaves_the_global_generator_alone():
    mean_teacher, slices = method(), batch()
    before = torch.get_rng_state()
    mean_teacher.step(slices, VIEWS, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_under_autocast_losses_are_of_single_precision():
    mean_teacher, slices = disagree(method()), batch()
    exact = mean_teacher.step(slices, VIEWS, 5, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        step = mean_teacher.step(slices, VIEWS, 5, 1.0)
    step.loss.backward()
    assert step.loss.dtype == step.logs["consistency"].dtype == torch.float32
    for name, value in step.logs.items():
        assert float(value) == pytest.approx(float(exact.logs[name]), rel=0.05), name
    assert all(p.grad.isfinite().all() for p in mean_teacher.network.parameters())


# Training


def test_only_the_student_learns_by_gradient():
    mean_teacher = disagree(method(weight=1.0))
    mean_teacher.step(batch(), VIEWS, 0, 1.0).loss.backward()
    for name, parameter in mean_teacher.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for parameter in mean_teacher.teacher.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def train(mean_teacher, optimiser, slices, views, seeds, steps=40):
    logs = []
    for seed in seeds:
        optimiser.zero_grad()
        step = mean_teacher.step(slices, views, seed, seed / steps)
        step.loss.backward()
        optimiser.step()
        mean_teacher.after_step()
        logs.append(
            {"loss": float(step.loss.detach())} | {k: float(v) for k, v in step.logs.items()}
        )
    return logs


def test_the_teacher_follows_the_student_and_only_after_a_step():
    mean_teacher, slices = method(decay=0.6), batch()
    optimiser = torch.optim.Adam(mean_teacher.network.parameters(), 0.05)
    expected = None
    for t in range(5):
        before = copy.deepcopy(list(mean_teacher.teacher.parameters()))
        mean_teacher.step(slices, VIEWS, t, 0.5).loss.backward()
        optimiser.step()
        for now, then in zip(mean_teacher.teacher.parameters(), before, strict=True):
            assert torch.equal(now, then)
        mean_teacher.after_step()
        student = [p.detach().clone() for p in mean_teacher.network.parameters()]
        a = min(0.6, 1 - 1 / (t + 1))
        expected = (
            student
            if expected is None
            else [a * e + (1 - a) * s for e, s in zip(expected, student, strict=True)]
        )
        for now, e in zip(mean_teacher.teacher.parameters(), expected, strict=True):
            torch.testing.assert_close(now, e)


def test_a_training_goes_on_from_its_state():
    """What is saved holds the teacher, and how far it is."""
    slices, results = batch(), []
    for interrupted in (False, True):
        mean_teacher = method(weight=1.0)
        optimiser = torch.optim.Adam(mean_teacher.network.parameters(), 0.02)
        train(mean_teacher, optimiser, slices, VIEWS, range(3))
        if interrupted:
            state = copy.deepcopy((mean_teacher.state_dict(), optimiser.state_dict()))
            mean_teacher = disagree(method(weight=1.0))
            mean_teacher.load_state_dict(state[0])
            optimiser = torch.optim.Adam(mean_teacher.network.parameters(), 0.02)
            optimiser.load_state_dict(state[1])
        train(mean_teacher, optimiser, slices, VIEWS, range(3, 6))
        results.append(mean_teacher.state_dict())
    assert any(name.startswith("teacher.") for name in results[0])
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


def test_the_teacher_is_the_result():
    mean_teacher = method()
    assert mean_teacher.model is mean_teacher.teacher.network
    assert mean_teacher.model is not mean_teacher.network
    assert MeanTeacher.uses_unlabelled


def test_it_learns():
    """A student without an idea has a loss of log 3 and a Dice of 1/3; the teacher follows."""
    views = ViewMaker(ViewSettings(gamma=0), SIZE)
    slices, mean_teacher = batch(8, views), method(width=4, weight=1.0, decay=0.9)
    optimiser = torch.optim.Adam(mean_teacher.network.parameters(), 0.02)
    logs = train(mean_teacher, optimiser, slices, views, range(40))
    assert np.mean([row["supervised"] for row in logs[-5:]]) < 0.5 * (math.log(3) + 2 / 3)
    found = mean_teacher.eval().model(views(slices.images, 99)).argmax(1)
    labels = apply_view_to_labels(slices.labels, views.draw(8, 99), SIZE)
    assert (found == labels).float().mean() > 0.8


def test_its_weight_makes_student_and_teacher_agree():
    slices, consistencies = batch(), []
    for weight in (1e-6, 30.0):
        mean_teacher = method(weight=weight, ramp_up=0.1)
        optimiser = torch.optim.Adam(mean_teacher.network.parameters(), 0.02)
        logs = train(mean_teacher, optimiser, slices, VIEWS, range(30))
        consistencies.append(np.mean([row["consistency"] for row in logs[-5:]]))
    assert consistencies[1] < 0.5 * consistencies[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0},
        {"weight": -1},
        {"ramp_up": 0},
        {"ramp_up": 1.5},
        {"decay": 1},
        {"decay": -0.1},
        {"wieght": 1},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(MeanTeacher.Settings, wrong)
