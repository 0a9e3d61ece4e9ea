import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poscon.errors import PosconError
from poscon.files import complete, write_text


def test_a_file_is_there_at_the_end_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    with complete(target) as part:
        part.write_text("whole")
        assert not target.exists()
        assert part.name == target.name
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_nothing_stays_of_a_failure_and_the_old_file_does(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")

    def fail() -> None:
        with complete(target) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    with complete(tmp_path / "case") as part:
        part.mkdir()
        (part / "a").write_text("a")
        (part / "b").write_text("b")
    assert sorted(p.name for p in (tmp_path / "case").iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("29184 requested")]
)
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, error: OSError) -> None:
    with (
        pytest.raises(PosconError, match=r"out\.csv: cannot be written .*disk full") as caught,
        complete(tmp_path / "out.csv"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_place_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PosconError, match="cannot be written"):
        write_text(tmp_path / "file" / "inner.txt", "y")
    assert (tmp_path / "file").read_text() == "x"


def test_several_may_write_the_same_file(tmp_path: Path) -> None:
    target, everyone = tmp_path / "file.txt", threading.Barrier(8)

    def work(number: int) -> None:
        with complete(target) as part:
            part.write_text(f"{number}")
            everyone.wait(timeout=60)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert target.read_text() in [str(number) for number in range(8)]
    assert list(tmp_path.iterdir()) == [target]
