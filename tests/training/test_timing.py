"""What is measured, not how long it took."""

from pathlib import Path

import pytest
import torch

from poscon.methods import Method
from poscon.store.store import Store
from poscon.training.optimisation import OptimiserSettings
from poscon.training.pretrain_settings import PretrainSettings, assemble
from poscon.training.timing import (
    PARTS,
    TURNS,
    Bare,
    Clock,
    ForwardTimer,
    Training,
    matrix_rate,
    measure_overhead,
    time_parts,
)


def training(store: Path, method: str = "pcl") -> Training:
    opened = Store(store)
    network = {"width": 4, "levels": 2}
    chosen = PretrainSettings(method=method, batch=8, network=network)
    learner, _, views, batches = assemble(chosen, opened, opened.cases, 32)
    return Training(learner, views, batches, chosen.optimiser, "cpu", "32")


@pytest.mark.parametrize("method", ["pcl", "gcl", "mae"])
def test_every_part_takes_its_time(store: Path, method: str) -> None:
    parts = time_parts(training(store, method), seconds=0.1)
    assert tuple(parts) == PARTS
    assert all(value > 0 for value in parts.values())


def test_a_step_clips_as_the_training_does(store: Path) -> None:
    """With the smallest clip SGD leaves the weights nearly where they are."""
    moved = []
    for clip in (None, 1e-9):
        measured = training(store)
        settings = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "warmup": 0.0, "clip": clip}
        measured.optimiser = OptimiserSettings(**settings)
        weights = next(measured.method.parameters())
        before = weights.detach().clone()
        time_parts(measured, seconds=0.05)
        moved.append(float((weights.detach() - before).abs().max()))
    assert moved[1] < 1e-6 < moved[0]


def test_parts_leave_no_hook_behind(store: Path) -> None:
    measured = training(store)
    time_parts(measured, seconds=0.1)
    for module in measured.method.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_bare_step_reads_nothing_and_makes_no_views(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = training(store)
    bare = Bare(measured)
    bare.seconds(1)

    def never(*_: object) -> None:
        raise AssertionError("the bare step must not")

    monkeypatch.setattr(measured.batches, "batch", never)
    monkeypatch.setattr("poscon.views.apply_view", never)
    before = [p.clone() for p in measured.method.parameters()]
    assert bare.seconds(2) > 0
    after = list(measured.method.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_operations_are_those_of_the_convolutions(store: Path) -> None:
    measured = training(store)
    side, views = 32, 2 * 8
    forward = 0
    for level, (inputs, width) in enumerate([(1, 4), (4, 8), (8, 16)]):
        pixels = (side // 2**level) ** 2 * views
        forward += 2 * 9 * pixels * (inputs * width + width * width)
    # backward: to the weights and, but for the first convolution, to the input
    first = 2 * 9 * side**2 * views * 4
    convolutions = 3 * forward - first
    assert convolutions < Bare(measured).operations() < 1.2 * convolutions  # and head, and loss


def test_the_loop_and_the_bare_step_take_turns(store: Path) -> None:
    built = []

    def build() -> Training:
        built.append(training(store))
        return built[-1]

    result = measure_overhead(build, seconds=0.5)
    assert result.slices == 8
    assert len(result.full) == len(result.bare) == len(built) - 1 == TURNS
    assert result.share > 0
    assert result.slices_per_second > 0


@pytest.mark.slow
def test_the_bare_step_can_be_compiled(store: Path) -> None:
    bare = Bare(training(store, "rotation"))
    bare.compile()
    assert bare.seconds(1) > 0
    method = bare.stepper.training.method
    assert [name for name, part in method.named_modules() if part._compiled_call_impl] == [
        "encoder"
    ]


def test_rates_are_of_a_step(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bare, "seconds", lambda _, steps: 3.0 * steps)
    monkeypatch.setattr("poscon.training.timing.time_loop", lambda _, steps: 4.0)
    result = measure_overhead(lambda: training(store), seconds=100)
    assert result.share == 0.75
    assert result.slices_per_second == 8 / 4


class _Slow(torch.nn.Module):
    """Takes time before and after what is in it."""

    def __init__(self, clock: "_Told", inner: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.inner = clock, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.time += 1
        x = x if self.inner is None else self.inner(x)
        self.clock.time += 1
        return x


class _Told(Clock):
    """Knows the time because it is told."""

    time = 0.0

    def now(self) -> float:
        return self.time


def test_forward_is_the_whole_of_the_outermost_pass() -> None:
    clock = _Told("cpu")
    method = Method()
    method.network = _Slow(clock, _Slow(clock, _Slow(clock)))
    timer = ForwardTimer(method, clock)
    with clock.measure("step"):
        method.network(torch.ones(1))
        method.network.inner(torch.ones(1))
    with clock.measure("backward"):
        method.network(torch.ones(1))  # gradient caching
    assert clock.spent["forward"] == [6.0, 4.0]
    timer.remove()
    with clock.measure("step"):
        method.network(torch.ones(1))
    assert len(clock.spent["forward"]) == 2


def test_a_clock_knows_what_runs() -> None:
    clock = Clock("cpu")
    with clock.measure("outer"):
        assert clock.running == ["outer"]
        with clock.measure("inner"):
            assert clock.running == ["outer", "inner"]
    assert clock.running == []
    assert clock.spent["outer"][0] >= clock.spent["inner"][0]


def test_a_matrix_product_has_a_rate() -> None:
    assert matrix_rate("cpu", bfloat16=False, seconds=0) > 1e8
