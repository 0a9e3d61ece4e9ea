"""The parts of nnU-Net's side that need no nnU-Net: the trainer here is a stand-in."""

from types import SimpleNamespace

import nnunet_side
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunet_side import LEAST_EPOCHS, PART, PARTS, epoch_seconds, schedule


@given(
    minutes=st.floats(1, 600),
    part=st.floats(0.01, 1.5),
    between=st.floats(0, 2),
)
def test_the_epochs_fill_the_time(minutes: float, part: float, between: float) -> None:
    epochs, parts = schedule(minutes * 60, part, between)
    taken = epochs * (parts * part + between)
    assert epochs >= LEAST_EPOCHS
    assert 1 <= parts <= PARTS
    assert taken <= minutes * 60 * (1 + 1e-9)
    assert taken > minutes * 60 - epochs * part * (1 + 1e-9)  # one part more is too long


def test_epochs_are_those_of_nnunet_where_they_fit() -> None:
    """250 iterations at 0.1 seconds, and 4 hours: as many whole epochs as fit."""
    epochs, parts = schedule(4 * 3600, part=0.5, between=1.0)
    assert PARTS * PART == 250
    assert (epochs, parts) == (554, PARTS - 1)
    assert schedule(26.0 * 100, part=0.5, between=1.0) == (100, PARTS)


def test_a_time_without_an_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10 epochs take at least 0\.33 minutes here; give more"):
        schedule(19.0, part=1.5, between=0.5)
    assert schedule(20.0, part=1.5, between=0.5) == (10, 1)


class Clock:
    """Seconds that pass only where the stand-in works."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Trainer:
    """Trains as nnU-Net's trainer does, in no time; an iteration counts as a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.num_epochs = 1000
        self.num_iterations_per_epoch = 250
        self.num_val_iterations_per_epoch = 50
        self.epochs: list[tuple[int, int]] = []
        self.configuration_manager: object = None

    def on_epoch_start(self) -> None:
        self.epochs.append((self.num_iterations_per_epoch, self.num_val_iterations_per_epoch))

    def run_training(self) -> None:
        self.clock.now += 1000
        for _ in range(self.num_epochs):
            self.on_epoch_start()
            self.clock.now += self.num_iterations_per_epoch + self.num_val_iterations_per_epoch
            self.clock.now += 4


def test_every_epoch_has_its_length_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(nnunet_side, "time", clock)
    trainer = Trainer(clock)
    assert epoch_seconds(trainer, [1, 10, 1]) == [10, 64, 10]
    assert trainer.epochs == [(5, 1), (50, 10), (5, 1)]
    assert trainer.num_epochs == 3


def test_training_takes_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a part and between epochs is found in the trial: 6 and 4 seconds here."""
    clock, trainers = Clock(), []

    plan = SimpleNamespace(
        batch_size=9,
        patch_size=(56, 40),
        network_arch_init_kwargs={"features_per_stage": [32, 64]},
    )

    def trainer(dataset: str) -> Trainer:
        trainers.append(Trainer(clock))
        trainers[-1].configuration_manager = plan
        return trainers[-1]

    seeds: list[int] = []
    monkeypatch.setattr(nnunet_side, "time", clock)
    monkeypatch.setattr(nnunet_side, "_trainer", trainer)
    monkeypatch.setattr(nnunet_side, "_seed", seeds.append)
    about = nnunet_side.train("Dataset900_few", "30", "7")
    assert about == {
        "seconds": 1780.0,  # an epoch has 29 parts; with 30 it would take more than 180 seconds
        "iterations": 10 * 29 * 5,
        "epochs": 10,
        "batch": 9,
        "patch": [56, 40],
        "features": [32, 64],
    }
    assert seeds == [7]
    assert len(trainers) == 2
    assert trainers[1].epochs == [(145, 29)] * 10
