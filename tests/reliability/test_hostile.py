"""The trials of hostile files, with few inputs. ``reliability/`` has the long ones."""

from pathlib import Path

import fuzz
import hostile_code
import hostile_headers
import pytest
from outcomes import Promise
from readers import Reader, all_readers


@pytest.fixture(scope="module")
def readers(
    tmp_path_factory: pytest.TempPathFactory,
    scans: Path,
    store: Path,
    pretrained: Path,
    finetuned: Path,
) -> list[Reader]:
    folder = tmp_path_factory.mktemp("readers")
    return all_readers(folder, scans, store, pretrained, finetuned)


def broken(promises: list[Promise]) -> list[str]:
    return [what for promise in promises for what in promise.broken]


def test_every_reader_reads_its_valid_files(readers: list[Reader]) -> None:
    for reader in readers:
        reader.place.write_bytes(reader.seeds[0])
        reader.read(reader.place)


def test_a_damaged_file_is_read_or_refused_in_one_line(readers: list[Reader]) -> None:
    counts = fuzz.shares(readers, 1000)
    assert sum(counts.values()) == pytest.approx(1000, abs=40)
    promises = [fuzz.try_reader(reader, counts[reader.name], 0, None) for reader in readers]
    assert not broken(promises)


def test_a_fault_of_a_reader_is_seen(readers: list[Reader], tmp_path: Path) -> None:
    reader = next(reader for reader in readers if reader.name == "names")
    for read, kind in (
        (lambda place: 1 / 0, "ZeroDivisionError"),
        (lambda place: (tmp_path / "x").write_text("x"), None),
    ):
        faulty = Reader("a", reader.place, tmp_path, "text", reader.seeds, read, ("a",), 1)
        promise = fuzz.try_reader(faulty, 2, 0, None)
        assert promise.broken
        assert kind is None or kind in promise.broken[0]


def test_code_in_a_file_is_not_run(readers: list[Reader], tmp_path: Path) -> None:
    cheap = [reader for reader in readers if reader.cost == 1]
    assert not broken(hostile_code.trial(tmp_path, [*cheap, readers[0]]))


def test_absurd_headers_take_no_memory(tmp_path: Path) -> None:
    files = hostile_headers.hostile_files(tmp_path, 0)
    for what, path, read in files:
        with pytest.raises(hostile_headers.PosconError) as caught:
            read(path)
        assert "\n" not in str(caught.value), what
