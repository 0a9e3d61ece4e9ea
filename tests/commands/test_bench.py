from pathlib import Path

import pytest
from typer.testing import CliRunner

from poscon.cli import app
from poscon.commands.bench import Bench, advice, bench, bench_tables, limit
from poscon.errors import PosconError
from poscon.progress import console
from poscon.training.pretrain_settings import PretrainSettings
from poscon.training.timing import PARTS, Overhead

TINY = ["network.width=4", "network.levels=2", "size=32", "batch=8"]


def measured(bare: float, changes: dict[str, float] | None = None, **parts: float) -> Bench:
    """A step of 1 s, of which the bare arithmetic takes ``bare``."""
    times = dict.fromkeys(PARTS, 0.0) | parts
    times["backward"] += 1 - sum(times.values())
    overhead = Overhead(slices=64, full=[1.0] * 3, bare=[bare] * 3)
    return Bench("machine", PretrainSettings(), 64, 300, times, overhead, 1e9, 2e9, changes or {})


def test_a_step_at_the_speed_of_its_convolutions() -> None:
    result = measured(0.97, read=0.01, views=0.02)
    assert limit(result).startswith("the convolutions")
    assert advice(result)[0].startswith("nothing among the settings")


@pytest.mark.parametrize(
    ("parts", "limited", "helps"),
    [
        ({"read": 0.3, "views": 0.1}, "reading slices", "local disk"),
        ({"read": 0.1, "views": 0.3}, "making views", "smaller slices"),
        ({"read": 0.01, "views": 0.01}, "the training loop", "more slices a step"),
    ],
)
def test_what_is_waited_for(parts: dict[str, float], limited: str, helps: str) -> None:
    result = measured(0.6, **parts)
    assert limit(result).startswith(limited)
    assert helps in advice(result)[-1]


def test_only_what_helps_is_advised_and_the_best_first() -> None:
    result = measured(0.99, {"a": 1.2, "b": 1.05, "c": 2.0})
    assert advice(result) == ["c (2.0 times as fast)", "a (1.2 times as fast)"]


def test_measures_a_store(store: Path) -> None:
    before = sorted(store.parent.iterdir())
    result = bench(store, settings=TINY, seconds=1)
    assert (result.size, result.overhead.slices) == (32, 8)
    assert all(value > 0 for value in result.parts.values())
    assert result.operations > 0
    assert "--set precision=bf16" in result.changes
    assert sorted(store.parent.iterdir()) == before
    assert not console.quiet


def test_the_command_says_where_the_time_goes(store: Path) -> None:
    arguments = ["bench", str(store), "--seconds", "1", "--method", "simclr"]
    for setting in TINY:
        arguments += ["-s", setting]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "simclr, 8 slices of 32 x 32 pixels" in done.output
    for part in (*PARTS, "slices a second", "GFLOP/s", "what limits it"):
        assert part in done.output


def test_how_long_the_whole_training_takes() -> None:
    text = "\n".join(str(part) for part in bench_tables(measured(0.9)))
    assert "300 steps, 10 epochs of this store, would take 5 min" in text


def test_compile_is_tried_and_not_told(store: Path) -> None:
    with pytest.raises(PosconError, match="setting compile: no effect on bench"):
        bench(store, settings=["compile=true"], seconds=1)


def test_what_the_method_cannot_do_is_one_line(store: Path) -> None:
    with pytest.raises(PosconError, match=r"loss.grid = 9: .* set size to"):
        bench(store, method="pirl", settings=["size=32", "loss.grid=9"], seconds=1)


def test_nothing_to_measure(store: Path) -> None:
    with pytest.raises(PosconError, match="random: does not train"):
        bench(store, method="random", seconds=1)
