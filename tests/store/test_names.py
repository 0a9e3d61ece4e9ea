"""Names of cases or subjects, from files and lists."""

import pytest
from store_examples import refusal

from poscon.store.names import read_names


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "a\n\n  b  # second\n# none\nc", ["a", "b", "c"]),
        ("l.csv", "# from me, today\na\nb,c", ["a", "b,c"]),
        ("l.txt", "\ufeffa\r\nb\r\n", ["a", "b"]),  # as Notepad and Excel write it
        ("l.json", '\ufeff["a"]', ["a"]),
        ("l.json", '["a", "b"]', ["a", "b"]),
        ("l.json:train", '{"train": ["a"], "test": ["b"]}', ["a"]),
        ("l.json:two words", '{"two words": ["a"]}', ["a"]),
    ],
)
def test_names(tmp_path, name, text, expected):
    (tmp_path / name.partition(":")[0]).write_text(text)
    assert read_names(f"{tmp_path}/{name}") == expected


def test_names_by_path(tmp_path):
    (tmp_path / "l.txt").write_text("a")
    assert read_names(tmp_path / "l.txt") == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "# nothing\n", "names no case"),
        ("l.csv", "image,subject\na.nii,a\n", "l.csv:SPLIT for the subjects of one of its splits"),
        ("l.CSV", "Image;subject\na.nii;a\n", "l.CSV:SPLIT for the subjects of one of its"),
        ("l.csv", "case,slice\na,1\n", "is a table; give a file with one name a line"),
        ("l.json", "[]", "names no case"),
        ("l.json", "{", "not valid JSON"),
        ("l.json", '{"train": ["a"]}', "expected a list of names"),
        ("l.json", "[1, 2]", "expected a list of names"),
        ("l.json:test", '{"train": ["a"]}', "has no key 'test'; its keys: train"),
        ("l.json:test", '["a"]', "has no key 'test'"),
        ("l.json:train", '{"train": "a"}', "expected a list of names"),
    ],
)
def test_lists_that_are_none(tmp_path, name, text, expected):
    file = tmp_path / name.partition(":")[0]
    file.write_text(text)
    message = refusal(read_names, f"{tmp_path}/{name}")
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_lists_that_cannot_be_read(tmp_path):
    assert "cannot read the list" in refusal(read_names, tmp_path / "none.txt")
    for name, content in {
        "broken.txt": b"\xff\xfe\x80",
        "photo.txt": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "utf-16.txt": "a\nb".encode("utf-16"),
        "utf-16.json": '["a"]'.encode("utf-16-be"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot read the list" in refusal(read_names, tmp_path / name)
    assert "cannot read the list" in refusal(read_names, tmp_path)
