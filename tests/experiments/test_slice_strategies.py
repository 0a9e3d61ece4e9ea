import csv
import sys
from pathlib import Path

import pytest
from slice_strategies import less, main, read

DRAWS = {"spread": (0.5, 0.7), "hybrid": (0.6, 0.9), "coverage": (0.4,)}


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    """A file for each strategy: subject n has n / 100 more than the draw, in two classes."""
    paths = []
    for strategy, draws in DRAWS.items():
        paths.append(tmp_path / f"{strategy}.csv")
        with paths[-1].open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["strategy", "draw", "case", "subject", "class", "dice", "run"])
            for draw, dice in enumerate(draws):
                for n in range(6):
                    for name, more in (("a", 0.1), ("b", -0.1)):
                        value = dice + n / 100 + more
                        row = [strategy, draw, f"c{n}", f"s{n}", name, value, f"{strategy}{draw}"]
                        table.writerow(row)
    return paths


def test_a_difference_is_over_the_draws_that_both_have(results: list[Path]) -> None:
    found = read(results)
    assert found["hybrid"]["1"] == {f"s{n}": pytest.approx(0.9 + n / 100) for n in range(6)}
    apart = less(found["hybrid"], found["spread"])
    assert apart is not None
    assert apart.mean == pytest.approx(0.15)
    assert apart.trainings == (pytest.approx(0.1), pytest.approx(0.2))
    one = less(found["coverage"], found["spread"])
    assert one is not None
    assert one.mean == pytest.approx(-0.1)
    assert one.of_trainings is None


def test_strategies_without_a_common_draw_have_no_difference(results: list[Path]) -> None:
    found = read(results)
    assert less({"7": found["hybrid"]["0"]}, found["spread"]) is None


def test_the_table_has_a_line_for_each_strategy(
    results: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["slice_strategies.py", *map(str, results)])
    main()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| coverage", "0.425", "0.425"],
        ["| hybrid", "0.775", "0.625, 0.925"],
        ["| spread", "0.625", "0.525, 0.725"],
    ]
    assert "+0.150 [+0.150, +0.150]" in lines[1]


def test_an_unknown_baseline_is_refused(
    results: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["slice_strategies.py", str(results[0]), "--baseline", "random"]
    )
    with pytest.raises(SystemExit):
        main()
    assert "no row of the strategy random" in capsys.readouterr().err
