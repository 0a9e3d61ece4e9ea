"""The teacher against the formula of its average."""

import copy

import pytest
import torch

from poscon.finetuning.teacher import Teacher
from poscon.networks.build import build_network
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.settings import NetworkSettings

SIZE = 16


def network(seed=0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkSettings(width=2, levels=2), 3)


def change(student: SegmentationNetwork, seed: int) -> None:
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


def test_no_number_is_read():
    """On a GPU that would wait for all work; on ``meta`` there is none to read."""
    teacher = Teacher(network(), 0.99).to("meta")
    for _ in range(2):
        teacher.update(network().to("meta"))
    assert teacher.steps == 2


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
    assert again.steps == 3
    change(students[0], 3)
    for one in (teacher, again):
        one.update(students[0])
    for name, value in teacher.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
