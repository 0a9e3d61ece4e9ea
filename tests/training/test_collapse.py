from pathlib import Path

import numpy as np
import pytest
import torch

from poscon.networks.build import build_encoder
from poscon.networks.settings import NetworkSettings
from poscon.pretext.contrast import unit
from poscon.store.store import Store
from poscon.training.collapse import PATIENCE, CollapseWatch, conclude, learnt, symptoms
from poscon.training.data import SliceReader
from poscon.training.diagnostics import Diagnostics
from poscon.training.probes import pooled_features
from poscon.views import ViewMaker, ViewSettings, canvas_size

HEALTHY = {"uniformity": -0.03, "effective_rank": 6.0}
COLLAPSED = {"uniformity": -0.001, "effective_rank": 1.2}


def row(loss: float, step: int = 1) -> dict[str, float]:
    return {"step": step, "loss": loss, "chance": 5.0, "floor": 3.0}


def test_learnt_is_the_share_of_the_way_from_chance_to_floor() -> None:
    assert learnt(row(5.0)) == 0
    assert learnt(row(4.0)) == pytest.approx(0.5)
    assert learnt(row(3.0)) == 1
    assert learnt(row(6.0)) == pytest.approx(-0.5)
    assert learnt(row(5.1) | {"floor": 5.0}) == 0  # nothing can be learnt
    assert learnt({"step": 1, "loss": 4.0}) == 1  # no chance level, nothing to be stuck at


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (row(4.0), []),
        (row(4.0) | HEALTHY, []),
        (row(4.99) | HEALTHY, ["better than chance (loss 4.990, chance 5.000)"]),
        (row(4.0) | COLLAPSED, ["look alike (uniformity -0.0010, effective rank 1.20)"]),
        (row(4.0) | {"uniformity": -0.004, "effective_rank": 3.0}, ["look alike"]),
        (row(4.0) | {"uniformity": -0.5, "effective_rank": 1.4}, ["look alike"]),
        (row(4.99) | COLLAPSED, ["chance", "look alike"]),
        ({"loss": 1.0}, []),
        ({"loss": 1.0} | COLLAPSED, ["look alike"]),
    ],
)
def test_symptoms_are_in_the_loss_and_in_the_features(
    values: dict[str, float], said: list[str]
) -> None:
    found = symptoms(values)
    assert len(found) == len(said)
    for text, part in zip(found, said, strict=True):
        assert part in text


@pytest.mark.parametrize("values", [HEALTHY, COLLAPSED])
def test_adds_the_diagnostics_and_what_is_learnt(values: dict[str, float]) -> None:
    watch = CollapseWatch(values.copy)
    assert watch(row(4.0)) == {**values, "learnt": pytest.approx(0.5)}
    assert watch({"step": 1, "loss": 4.0}) == values


@pytest.mark.parametrize(
    ("loss", "values"), [(4.99, HEALTHY), (4.99, {}), (3.5, COLLAPSED), (4.99, COLLAPSED)]
)
def test_warns_once_on_one_line_while_stuck(
    loss: float, values: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    watch = CollapseWatch(values.copy)
    for step in range(PATIENCE - 1):
        watch(row(loss, step))
    assert capsys.readouterr().err == ""
    for step in range(PATIENCE - 1, 8):
        watch(row(loss, step))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: by step {PATIENCE - 1} the ")
    assert ("has not learnt its task" in line) == (loss == 4.99)
    assert ("features have collapsed" in line) == (values is COLLAPSED)


def test_says_nothing_of_a_loss_that_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CollapseWatch(HEALTHY.copy)
    for loss in (5.3, 4.99, 4.7, 4.99, 4.99, 4.5):
        watch(row(loss))
    assert capsys.readouterr().err == ""


def test_concludes_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"step": 0, **HEALTHY, "retrieval_error": 0.25, "retrieval_chance": 0.33}
    last = row(3.5) | {"effective_rank": 12.3, "retrieval_error": 0.05, "retrieval_chance": 0.33}
    conclude("pre-training (pcl)", [before, row(4.0), last])
    assert capsys.readouterr().err == (
        "pre-training (pcl): loss 3.500 (chance 5.000, floor 3.000); "
        "effective rank 12.3 (before 6.0); "
        "position retrieval error 0.050 (before 0.250, chance 0.330)\n"
    )
    conclude("pre-training (none)", [before])
    assert capsys.readouterr().err == (
        "pre-training (none): effective rank 6.0; position retrieval error 0.250 (chance 0.330)\n"
    )
    conclude("one subject", [{"step": 0, **HEALTHY}, {"step": 9, "loss": 2.0, **HEALTHY}])
    assert capsys.readouterr().err == ("one subject: loss 2.000; effective rank 6.0 (before 6.0)\n")


@pytest.mark.parametrize("last", [row(4.99) | HEALTHY, row(4.0) | COLLAPSED])
def test_warns_of_what_ended_badly(
    last: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    conclude("run", [{"step": 0}, last])
    summary, warning = capsys.readouterr().err.splitlines()
    assert summary.startswith("run: loss")
    assert warning.startswith("warning: in the end the ")


def test_a_random_start_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    conclude("run", [{"step": 0, **COLLAPSED}])
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("norm", [True, False])
def test_an_encoder_that_only_makes_views_alike_collapses_and_that_is_seen(
    norm: bool, store: Path
) -> None:
    """The textbook collapse: nothing keeps the slices apart."""
    torch.manual_seed(0)
    encoder = build_encoder(NetworkSettings(width=4, levels=2, bottleneck_norm=norm))
    views, opened = ViewMaker(ViewSettings(), 32), Store(store)
    reader = SliceReader(opened, opened.cases, canvas_size(32, views.settings))
    measure = Diagnostics(encoder, reader, views, 0)
    assert symptoms({"loss": 1.0} | measure()) == []
    images = reader.centred(np.arange(0, len(reader), 3)).images.float()
    optimiser = torch.optim.AdamW(encoder.parameters(), 0.01)
    for step in range(60):
        a, b = (unit(pooled_features(encoder, views(images, step, view=v))) for v in (0, 1))
        loss = (a - b).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    (symptom,) = symptoms({"loss": float(loss.detach())} | measure())
    assert "the features have collapsed" in symptom
