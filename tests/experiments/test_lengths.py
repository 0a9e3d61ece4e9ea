import csv
from pathlib import Path

import pytest
from lengths import by_length, gains


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            [
                "pretraining",
                "finetuning",
                "labelled",
                "fold",
                "draw",
                "case",
                "subject",
                "class",
                "dice",
                "run",
            ]
        )
        for start, gain in (("random", 0.0), ("pcl", 0.1)):
            for steps in (300, 100):
                for subject in range(6):
                    dice = 0.5 + subject / 100 + gain * (100 / steps)
                    finetuning = f"poscon-{steps}"
                    row = [start, finetuning, 2, 0, 0, f"c{subject}", f"s{subject}", "a", dice]
                    table.writerow([*row, f"{start}-{steps}"])
        table.writerow(["random", "poscon-100", 6, 0, 0, "c0", "s0", "a", 0.9, "other"])
    return path


def test_a_gain_is_that_over_the_baseline_at_the_same_length(results: Path) -> None:
    means = by_length(results, "2")["poscon"]
    assert means["random"][100] == {f"s{n}": pytest.approx(0.5 + n / 100) for n in range(6)}
    found = gains(means, "random")["pcl"]
    assert list(found) == [100, 300]
    assert found[100].mean == pytest.approx(0.1)
    assert found[300].mean == pytest.approx(0.1 / 3)


def test_a_length_that_is_not_finished_is_left_out(results: Path) -> None:
    lines = results.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("pcl,poscon-300")]
    results.write_text("\n".join(kept) + "\n")
    assert list(gains(by_length(results, "2")["poscon"], "random")["pcl"]) == [100]
