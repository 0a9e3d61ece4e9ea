import pytest
from outcomes import Promise, finish


def test_a_broken_promise_names_its_input_and_ends_with_1(capsys: pytest.CaptureFixture[str]):
    promise = Promise("the grid is that of the scan")
    promise.note(True, "seed 0")
    promise.note(False, "seed 1")
    with pytest.raises(SystemExit) as stop:
        finish([promise])
    assert stop.value.code == 1
    assert capsys.readouterr().out == (
        "the grid is that of the scan: tried 2, held 1\n  broken by: seed 1\n"
    )


def test_kept_promises_end_with_0(capsys: pytest.CaptureFixture[str]):
    promise = Promise("memory is flat")
    promise.note(True, "a")
    with pytest.raises(SystemExit) as stop:
        finish([promise])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "memory is flat: tried 1, held 1\n"
