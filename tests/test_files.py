import errno
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from poscon.errors import PosconError
from poscon.files import LOCK, alone, complete, holds_nothing, sweep, write_text


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


@pytest.mark.parametrize("old", [".writing-file.txt-0", ".writing-file.txt-u3k_x"])
def test_what_a_killed_process_left_goes_and_what_is_written_stays(
    old: str, tmp_path: Path
) -> None:
    (tmp_path / old).mkdir()
    (tmp_path / old / "file.txt").write_text("half")
    (tmp_path / old / "folder").mkdir()
    with complete(tmp_path / "file.txt") as part:
        part.write_text("whole")
        sweep(tmp_path)
    assert (tmp_path / "file.txt").read_text() == "whole"
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_command_begins_by_tidying_up(tmp_path: Path) -> None:
    (tmp_path / ".writing-file.txt-0").mkdir()
    assert holds_nothing(tmp_path)
    with alone(tmp_path, "prepare"):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def hold(folder: Path, ready: Any, release: Any) -> None:
    with alone(folder, "prepare"):
        ready.set()
        release.wait(30)


def test_a_folder_is_held_by_one_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with alone(folder, "prepare"):
        assert holds_nothing(folder)
        again = alone(folder, "predict")
        with pytest.raises(PosconError, match="another poscon predict is at work there"), again:
            pytest.fail("held twice")
    assert not (tmp_path / "new").exists()
    with alone(folder, "prepare"):
        (folder / "file").write_text("kept")
        assert not holds_nothing(folder)
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, release))
    process.start()
    assert ready.wait(60)
    with pytest.raises(PosconError, match="another poscon"), alone(tmp_path, "prepare"):
        pass
    process.kill()
    process.join()
    assert (tmp_path / LOCK).exists()  # nobody could remove it
    assert holds_nothing(tmp_path)
    with alone(tmp_path, "prepare"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("poscon.files.fcntl.flock", none)
    with alone(tmp_path, "prepare"), alone(tmp_path, "prepare"):
        pass
    target = tmp_path / "file.txt"
    with complete(target) as part, complete(target) as other:  # nobody knows who is alive
        assert part.parent != other.parent
        sweep(tmp_path)
        part.write_text("one")
        other.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    write_text(target, "whole")
    assert target.read_text() == "whole"
    with pytest.raises(PosconError, match="File name too long"):
        write_text(tmp_path / ("n" * 256), "whole")


def test_a_link_to_nothing_is_named_and_waited_for_by_nobody(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    for place in (link, link / "below", link / "below" / "deeper"):
        words = f"{link}: cannot be written .it is a link to {tmp_path / 'nothing'}, which is not"
        with pytest.raises(PosconError, match=words), alone(place, "prepare"):
            pass
        with pytest.raises(PosconError, match=words), complete(place):
            pass
    assert sorted(tmp_path.iterdir()) == [link]
