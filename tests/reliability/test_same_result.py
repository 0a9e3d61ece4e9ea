"""The comparison of the trial of repeated results, by one process."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from same_result import RESULTS, difference, written


def test_a_changed_byte_is_seen(finetuned: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copytree(finetuned, tmp_path / name / "finetune")
    one, two = (written(tmp_path / name, "finetune") for name in ("one", "two"))
    assert one == two
    assert "finetune/model.safetensors" in one
    model = tmp_path / "two/finetune/model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert written(tmp_path / "two", "finetune") != one


def test_the_difference_of_weights_and_dice(tmp_path: Path) -> None:
    for name, shift in (("one", 0.0), ("two", 0.25)):
        folder = tmp_path / name / "finetune"
        folder.mkdir(parents=True)
        save_file({"w": np.arange(3.0) + shift}, folder / "model.safetensors")
        (tmp_path / name / "results.csv").write_text(f"case,dice\na,{0.5 + shift}\nb,\n")
    assert difference(tmp_path / "two", tmp_path / "one") == (0.25, 0.25)


def test_every_command_is_repeated() -> None:
    assert list(RESULTS) == [
        "prepare",
        "align",
        "pretrain",
        "finetune",
        "predict",
        "evaluate",
        "suggest",
        "compare",
    ]
