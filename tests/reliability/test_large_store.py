"""The core of ``reliability/large_store.py``, small."""

from pathlib import Path

from large_store import open_once, write_manifest

from poscon.store.store import Store


def test_the_manifest_is_that_of_a_store(tmp_path: Path) -> None:
    write_manifest(tmp_path, 3, seed=0)
    assert [case.id for case in Store(tmp_path).cases] == [
        *("case_000000", "case_000001", "case_000002")
    ]
    found, seconds, more = open_once(tmp_path)
    assert found == 3
    assert seconds >= 0
    assert more >= 0
