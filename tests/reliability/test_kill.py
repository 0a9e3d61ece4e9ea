"""A few trials of the scripts ``kill.py`` and ``stops.py``, on the runs of the fixtures."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from kill import trial as kill
from stops import asked_to_end, helper_hit, requeued, two_at_once
from warm import COMMANDS, Command, TooLate, reference, warm_up


@pytest.fixture(scope="module")
def world(
    scans: Path,
    store: Path,
    pretrained: Path,
    finetuned: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the commands read, made of the fixtures."""
    warm_up()
    folder = tmp_path_factory.mktemp("world")
    made = {"scans": scans, "store": store, "pre": pretrained, "seg": finetuned}
    for name, path in made.items():
        (folder / name).symlink_to(path)
    return folder


def command(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


def killed(everyone: bool) -> Callable[..., str | None]:
    return lambda world, command, expected, moment, turn: kill(
        world, command, expected, moment, everyone
    )


@pytest.mark.parametrize(
    ("name", "trial"),
    [
        ("prepare", killed(everyone=False)),
        ("prepare", helper_hit(signal.SIGKILL)),
        ("finetune", killed(everyone=True)),
        ("finetune", asked_to_end(signal.SIGTERM)),
        ("finetune", asked_to_end(signal.SIGINT)),
        ("finetune", two_at_once),
        ("predict", requeued),
    ],
)
def test_it_goes_on_as_if_nothing_had_been(
    name: str, trial: Callable[..., str | None], world: Path
) -> None:
    expected, seconds = reference(world, command(name))
    for share in 2 * (0.6, 0.4, 0.7, 0.5, 0.3, 0.2):  # the machine may be faster or slower now
        try:
            wrong = trial(world, command(name), expected, share * seconds, 1)
        except TooLate:
            continue
        assert wrong is None
        return
    raise TooLate
