"""nnU-Net from weights and from none: what is read of its logs, and what comes of it."""

import csv
import json
from pathlib import Path

from nnunet_start import STARTS, Comparison, read_log

LOG = """
2026-11-28 23:29:10.558542: Epoch 0
2026-11-28 23:29:10.558758: Current learning rate: 0.01
2026-11-28 23:29:12.513321: train_loss 0.9681
2026-11-28 23:29:12.513545: val_loss -0.7368
2026-11-28 23:29:12.513602: Pseudo dice [np.float32(0.0421), np.float32(1e-04)]
2026-11-28 23:29:12.513677: Epoch time: 1.96 s
2026-11-28 23:29:14.428051: Epoch 1
2026-11-28 23:29:36.898818: train_loss 0.2418
2026-11-28 23:29:36.899099: val_loss 0.0755
2026-11-28 23:29:36.899222: Pseudo dice [0.5, 0.75]
2026-11-28 23:29:38.685152: Epoch 2
2026-11-28 23:29:40.876816: train_loss 0.097
"""


def test_epochs_of_a_log() -> None:
    """With and without numpy's names of types. An epoch that was cut off does not count."""
    assert read_log(LOG) == [
        {"epoch": 0, "train_loss": 0.9681, "val_loss": -0.7368, "dice": 0.0211},
        {"epoch": 1, "train_loss": 0.2418, "val_loss": 0.0755, "dice": 0.625},
    ]


def test_report_of_the_seeds_that_are_done(tmp_path: Path) -> None:
    """Both starts of a seed, or none."""
    (tmp_path / "log.txt").write_text(LOG)
    (tmp_path / "settings.json").write_text(json.dumps({"epochs": 2, "labelled subjects": ["a"]}))
    comparison = Comparison(tmp_path, tmp_path, Path("python"), 1, 3, 1, 2, 20)
    dice = {"none": [0.5, 0.6, 0.7], "pcl": [0.6, 0.7, 0.9]}
    about = {"seconds": 9.0, "log": str(tmp_path / "log.txt"), "batch": 7, "patch": [56, 40]}
    for start, seed in (("none", 0), ("pcl", 0), ("none", 1)):
        place = comparison.place(start, seed)
        place.mkdir()
        told = {**about, "features": [2, 4], "dice": dice[start]}
        (place / "training.json").write_text(json.dumps(told))
    comparison.report()
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["start"], r["seed"], r["iterations"]) for r in rows] == [
        (start, "0", iterations) for start in STARTS for iterations in ("20", "40")
    ]
    text = (tmp_path / "start.md").read_text()
    assert "| nnU-Net from | seed 0 | mean |" in text
    assert "| random weights | 0.600 | 0.600 |" in text
    assert "| weights of PCL | 0.733 | 0.733 |" in text
    assert "+0.133" in text
    assert "- labelled subjects: a\n" in text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
