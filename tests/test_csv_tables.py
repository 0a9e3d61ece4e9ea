"""Tables as people and spreadsheet programs write them."""

from pathlib import Path

import pytest

from poscon.csv_tables import read_table
from poscon.errors import PosconError

ROWS = [{"case": "a", "slice": "1"}, {"case": "b", "slice": "2"}]


@pytest.mark.parametrize(
    "text",
    [
        "case,slice\na,1\nb,2\n",
        "\ufeffcase,slice\r\na,1\r\nb,2\r\n",
        "case;slice\na;1\nb;2\n",
        "case\tslice\na\t1\nb\t2",
        "Case , SLICE\n a ,1\n\nb, 2 \n",
        "case,slice,,\na,1,,\n,,,\nb,2,,\n",
        '"case","slice"\n"a","1"\n"b","2"\n',
        "\ncase,slice\na,1\nb,2\n",
        " \ncase;slice\na;1\nb;2\n",
        "sep=;\r\ncase;slice\r\na;1\r\nb;2\r\n",
        "sep=|\ncase|slice\na|1\nb|2\n",
    ],
)
def test_the_same_table_however_it_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    assert [row for _, row in read_table(tmp_path / "t.csv", ("case", "slice"))] == ROWS


def test_lines_are_those_of_the_file_and_other_columns_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('case,why,slice\n\na,"two\nlines, one field",1\nb,,2\n')
    found = read_table(tmp_path / "t.csv", ("case", "slice"))
    assert [where for where, _ in found] == [f"{tmp_path / 't.csv'}, line {n}" for n in (4, 5)]
    assert found[0][1]["why"] == "two\nlines, one field"
    (tmp_path / "t.csv").write_text("case;slice;a, b;;a, b\na;3\nb;4;x\n")
    found = read_table(tmp_path / "t.csv", ("case", "slice"))
    assert [row["slice"] for _, row in found] == ["3", "4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'case'; its first line should name 'case,slice', and may name 'note'"),
        ("case,note\na,1\n", "no column 'slice'"),
        ("case,slice,case\na,1,a\n", "the column 'case' is there twice"),
        ("case,slice,age\na,1,3\n", "a column 'age' that poscon does not know"),
        ("case,,slice\na,,3\n", "a column without a name that poscon does not know"),
        ("case,slice\na\n", "line 2: 1 fields, but 2 columns"),
        ("case,slice\na,1,x\n", "line 2: 3 fields, but 2 columns"),
        ('case,slice\n"a,1\n', "cannot be read as CSV"),
        ("case;slice\na,1\n", "line 2: 1 fields, but 2 columns"),
    ],
)
def test_another_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(PosconError, match=message):
        read_table(tmp_path / "t.csv", ("case", "slice"), ("note",))


def test_a_table_in_another_encoding_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("case,slice\nMüller,1\n".encode("latin-1"))
    with pytest.raises(PosconError, match=r"t\.csv: no text in UTF-8; save it as CSV in UTF-8"):
        read_table(tmp_path / "t.csv", ("case", "slice"))
    with pytest.raises(PosconError, match=r"none\.csv: cannot be read"):
        read_table(tmp_path / "none.csv", ("case",))
