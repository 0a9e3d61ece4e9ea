import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from poscon.commands import demo as module
from poscon.commands.demo import Demo, demo, demo_tables
from poscon.errors import PosconError

TINY = """
pretrain: {size: 16, epochs: 1, batch: 16, network: {width: 2, levels: 2}}
finetune: {size: 16, iterations: 3, batch: 4, network: {width: 2, levels: 2}}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(module, "SUBJECTS", 7)
    monkeypatch.setattr(module, "TEST_SUBJECTS", 3)
    monkeypatch.setattr(module, "RECIPE", str(tmp_path / "tiny.yaml"))
    return tmp_path / "demo"


def shown(result: Demo) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*demo_tables(result), sep="\n")
    return console.export_text()


def test_shows_both_starts_and_says_that_the_data_is_synthetic(small: Path) -> None:
    result = demo(small, seed=3)
    text = shown(result)
    assert "Synthetic" in text
    for word in ("random init", "PCL init", "lower", "middle", "upper", "tube", "mean"):
        assert word in text
    assert result.picture.stat().st_size > 10_000
    for evaluation in result.evaluations.values():
        assert {row.case for row in evaluation.rows} == {
            "phantom_004",
            "phantom_005",
            "phantom_006",
        }


def test_both_starts_have_the_same_subjects_and_none_sees_the_test(small: Path) -> None:
    demo(small, seed=3)
    lists = [json.loads((small / "runs" / s / "cases.json").read_text()) for s in ("random", "pcl")]
    pretrained = json.loads((small / "runs" / "pretrain" / "cases.json").read_text())
    assert lists[1] == lists[0] + pretrained
    seen = json.dumps(lists[1])
    assert "phantom_003" in seen
    assert not any(name in seen for name in ("phantom_004", "phantom_005", "phantom_006"))


def test_goes_on_where_it_was(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finetune", cut)
        with pytest.raises(KeyboardInterrupt):
            demo(small, seed=3)
    result = demo(small, seed=3)
    assert "pretrain" not in result.seconds
    again = demo(small, seed=3)
    assert not any(name.startswith("finetune") for name in again.seconds)
    # the PCL start of an interrupted demo is that of an uninterrupted one
    assert shown(again).split("time:")[0] == shown(result).split("time:")[0]


def test_refuses_a_folder_that_is_something_else(small: Path, tmp_path: Path) -> None:
    demo(small, seed=3)
    with pytest.raises(PosconError, match="a demo of seed 3, modality mr"):
        demo(small, seed=4)
    with pytest.raises(PosconError, match="is no demo"):
        demo(tmp_path)


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """What the README promises, at full size; the result is reported, not required."""
    result = demo(tmp_path / "demo", seed=0)
    assert all(0 < e.summary()[-1].dice.mean < 0.95 for e in result.evaluations.values())
