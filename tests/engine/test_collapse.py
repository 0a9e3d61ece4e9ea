import pytest

from poscon.engine.collapse import PATIENCE, CollapseWatch, learnt


def row(loss: float, step: int = 1) -> dict[str, float]:
    return {"step": step, "loss": loss, "chance": 5.0, "floor": 3.0}


def test_learnt_is_the_share_of_the_way_from_chance_to_floor() -> None:
    assert learnt(row(5.0)) == 0
    assert learnt(row(4.0)) == pytest.approx(0.5)
    assert learnt(row(3.0)) == 1
    assert learnt(row(6.0)) == pytest.approx(-0.5)
    assert learnt({"step": 1, "loss": 4.0}) == 1  # no chance level, nothing to be stuck at


def test_warns_once_while_stuck_and_again_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CollapseWatch()
    for step in range(PATIENCE - 1):
        assert watch(row(4.99, step)) == {"learnt": pytest.approx(0.005)}
    assert "warning" not in capsys.readouterr().err
    for step in range(5):
        watch(row(4.99, step))
    assert capsys.readouterr().err.count("still no better than chance") == 1
    watch.finish()
    assert "ended no better than chance" in capsys.readouterr().err


def test_says_nothing_of_a_loss_that_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CollapseWatch()
    for loss in (5.3, 4.99, 4.7, 4.99, 4.99, 4.5):
        watch(row(loss))
    watch.finish()
    assert capsys.readouterr().err == ""


def test_a_method_without_chance_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    watch = CollapseWatch()
    for step in range(5):
        assert watch({"step": step, "loss": 1.0}) == {}
    watch.finish()
    assert capsys.readouterr().err == ""
