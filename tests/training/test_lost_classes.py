"""What is said of classes that have died out in pseudo-labels."""

import pytest
import torch

from poscon.finetuning.guard import ClassGuard
from poscon.training.lost_classes import LostClassWatch


def test_a_class_is_named_once_when_it_is_lost_and_once_when_it_is_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    guard = ClassGuard(4)
    watch = LostClassWatch(guard, ["liver", "[left] kidney", "spleen"])
    for step, lost in enumerate(([], [2], [2], [2, 3], [], []), 1):
        guard.lately |= torch.isin(torch.arange(4), torch.tensor(lost, dtype=torch.int64))
        watch({"step": 100 * step})
    said = "note: by step {} the pseudo-labels have {}"
    assert capsys.readouterr().err.splitlines() == [
        said.format(200, "lost [left] kidney; they do not count until it is back"),
        said.format(400, "lost spleen; they do not count until it is back"),
        said.format(500, "[left] kidney again, so they count again"),
        said.format(500, "spleen again, so they count again"),
    ]


def test_the_background_can_be_lost_too(capsys: pytest.CaptureFixture[str]) -> None:
    guard = ClassGuard(2)
    guard.lately[0] = True
    LostClassWatch(guard, ["liver"])({"step": 1})
    assert "have lost background;" in capsys.readouterr().err
