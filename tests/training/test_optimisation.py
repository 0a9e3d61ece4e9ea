from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from poscon.errors import PosconError
from poscon.settings import validate
from poscon.training.optimisation import (
    EncoderRate,
    OptimiserSettings,
    build_optimiser,
    learning_rate,
)


def rates(total: int, **told) -> list[float]:
    settings = OptimiserSettings(**told)
    return [learning_rate(step, total, settings) for step in range(total)]


def test_warm_up_then_half_a_cosine():
    curve = rates(105, lr=0.5, min_lr=0.1, warmup=4 / 105)
    assert curve[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert curve[4] == pytest.approx(0.5)
    assert curve[54] == pytest.approx(0.3)  # half way
    assert curve[29] == pytest.approx(0.3 + 0.2 * 0.5**0.5)
    assert curve[-1] == pytest.approx(0.1)


def test_without_warm_up_the_first_step_is_at_the_peak():
    curve = rates(11, lr=0.1, min_lr=0.0, warmup=0.0)
    assert curve[0] == 0.1
    assert curve[5] == pytest.approx(0.05)
    assert curve[-1] == pytest.approx(0)


def test_without_a_final_rate_it_stays_at_the_peak():
    curve = rates(10, lr=0.2, min_lr=None, warmup=0.2)
    assert curve == pytest.approx([0.1, *[0.2] * 9])


@given(st.integers(3, 500), st.floats(1e-5, 1), st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.3]))
def test_the_curve_rises_once_and_falls_once(total, lr, share, warmup):
    curve = rates(total, lr=lr, min_lr=lr * share, warmup=warmup)
    peak = round(warmup * total)
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(curve[: peak + 1]))
    assert all(a >= b - lr * 1e-9 for a, b in pairwise(curve[peak:]))
    assert max(curve) == pytest.approx(lr)
    assert curve[-1] == pytest.approx(lr * share, abs=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_runs(total):
    assert all(0 <= rate <= 0.1 + 1e-9 for rate in rates(total, lr=0.1, warmup=0.9))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"name": "sgd", "momentum": 0.9}, torch.optim.SGD),
        ({"name": "adam"}, torch.optim.Adam),
        ({"name": "adamw"}, torch.optim.AdamW),
    ],
)
def test_the_optimiser_asked_for_follows_the_curve(told, kind):
    settings = OptimiserSettings(lr=0.5, min_lr=0.1, warmup=0.3, weight_decay=0.02, **told)
    optimiser, scheduler = build_optimiser(nn.Linear(2, 1).parameters(), settings, 10)
    assert type(optimiser) is kind
    (group,) = optimiser.param_groups
    assert group["weight_decay"] == 0.02
    assert group.get("momentum", 0) == told.get("momentum", 0)
    seen = []
    for _ in range(10):
        seen.append(group["lr"])
        optimiser.step()
        scheduler.step()
    assert seen == pytest.approx([learning_rate(step, 10, settings) for step in range(10)])


def test_plain_sgd_takes_a_plain_step():
    weight = nn.Parameter(torch.tensor([1.0]))
    settings = OptimiserSettings(name="sgd", lr=0.5, warmup=0, weight_decay=0)
    optimiser, _ = build_optimiser([weight], settings, 10)
    for _ in range(2):
        weight.grad = torch.tensor([0.1])
        optimiser.step()
    assert float(weight.detach()) == pytest.approx(1 - 2 * 0.5 * 0.1)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_momentum_has_no_effect_on_adam(name):
    with pytest.raises(PosconError, match=f"momentum has no effect on {name}"):
        validate(OptimiserSettings, {"name": name, "momentum": 0.9})
    assert OptimiserSettings(name="sgd", momentum=0.9).momentum == 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "sdg"},
        {"lr": 0},
        {"min_lr": -1},
        {"warmup": 1},
        {"warmup": -0.1},
        {"momentum": 1.0, "name": "sgd"},
        {"weight_decay": -1},
        {"clip": 0},
        {"beta": 1},
    ],
)
def test_settings_that_cannot_work(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(OptimiserSettings, wrong)


def test_what_needs_no_gradient_is_passed_over():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    optimiser, _ = build_optimiser(layer.parameters(), OptimiserSettings(), 10)
    assert [group["params"] for group in optimiser.param_groups] == [[layer.weight]]


def test_an_encoder_is_held_back():
    """Frozen for its share of the steps, then at its share of the learning rate."""
    encoder, rest = nn.Linear(3, 3), nn.Linear(3, 1)
    before = encoder.weight.detach().clone()
    optimiser, scheduler = build_optimiser(
        [*encoder.parameters(), *rest.parameters()],
        OptimiserSettings(lr=0.1, warmup=0, weight_decay=0.5),
        10,
        encoder=encoder.parameters(),
        encoder_rate=EncoderRate(factor=0.25, frozen=0.4),
    )
    others, own = optimiser.param_groups
    assert others["params"] == [*rest.parameters()]
    assert own["params"] == [*encoder.parameters()]
    for step in range(10):
        assert own["lr"] == pytest.approx(0 if step < 4 else others["lr"] / 4)
        optimiser.zero_grad()
        rest(encoder(torch.ones(2, 3))).sum().backward()
        optimiser.step()
        assert torch.equal(encoder.weight, before) == (step < 4)
        scheduler.step()


@pytest.mark.parametrize("wrong", [{"factor": 0}, {"factor": 1.5}, {"frozen": 1}, {"froze": 0}])
def test_encoder_rates_that_cannot_be(wrong):
    with pytest.raises(PosconError, match=next(iter(wrong))):
        validate(EncoderRate, wrong)


def test_a_rate_that_would_rise_to_its_end_is_refused():
    with pytest.raises(PosconError, match=r"min_lr = 0.2 must be at most lr = 0.1; lower it too"):
        validate(OptimiserSettings, {"lr": 0.1, "min_lr": 0.2})
    assert OptimiserSettings(lr=0.1, min_lr=0.1).min_lr == 0.1
