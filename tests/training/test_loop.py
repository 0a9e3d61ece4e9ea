from pathlib import Path

import pytest
import torch

from poscon.training import loop
from poscon.training.run import RunFolder


def test_means_go_on_where_the_training_runs() -> None:
    """A checkpoint is read into the memory of the CPU; the sums of a GPU's steps belong there."""
    means = loop.ChunkMeans(torch.device("meta"))
    means.load_state_dict({"sums": {"loss": torch.tensor(2.0), "rate": 1.0}, "counts": {"loss": 1}})
    assert means.sums["loss"].device.type == "meta"
    assert means.sums["rate"] == 1.0


def test_a_step_is_said_with_all_its_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "open_logger", lambda name, run: None)
    with loop._Log(RunFolder(tmp_path), "fine-tuning", 0, "tensorboard") as log:
        log.write({"step": 123456, "loss": 0.123456})
    assert capsys.readouterr().err == "fine-tuning: step 123456  loss 0.1235\n"
