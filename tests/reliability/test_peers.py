"""What poscon does with the files that others fail on; the others themselves are not tried here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peers import DATASET, FLAWED, TRIALS, Outcome, Payload, held, run, write_dataset

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", TRIALS)
def test_poscon_refuses_the_file_or_reads_it_rightly(
    name: str, tmp_path: Path, poscon: Command
) -> None:
    trial, folder = TRIALS[name], tmp_path / DATASET
    write_dataset(folder, seed=7)  # which other tests have drawn
    trial.spoil(folder)
    code, out, err = poscon("prepare", folder, tmp_path / "store", "--processes", 1)
    said = next((line for line in err.splitlines() if line.startswith("error: ")), "")
    assert held(trial, Outcome("poscon", code, said)), out + err
    assert (f"case_{FLAWED}" in said) is not trial.right


def test_code_in_a_file_of_weights_is_not_run(store: Path, tmp_path: Path, poscon: Command) -> None:
    mark, weights = tmp_path / "the-code-ran", tmp_path / "weights.pth"
    torch.save({"network_weights": Payload(mark)}, weights)
    code, _, err = poscon("finetune", store, tmp_path / "run", "--init", weights)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {weights}: cannot be read as weights")
    assert not mark.exists()
    torch.load(weights, weights_only=False)
    assert mark.exists()  # as it would have


def test_the_line_that_says_most_is_quoted() -> None:
    said, _ = run(["sh", "-c", "echo first; echo 'error: a file'; echo last; exit 2"], "a tool")
    assert (said.code, said.said) == (2, "error: a file")
    said, _ = run(["sh", "-c", "echo first; echo last"], "a tool")
    assert (said.code, said.said) == (0, "last")
