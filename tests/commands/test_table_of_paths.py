"""A CSV file of paths, through the commands that read scans."""

from collections.abc import Callable
from pathlib import Path

import pytest

from poscon.commands.evaluate import evaluate
from poscon.commands.prepare import prepare
from poscon.commands.suggest import suggest
from poscon.comparison.data import located
from poscon.comparison.plan_parts import DataSettings
from poscon.store.selection import choose_cases
from poscon.store.store import Store


@pytest.fixture(scope="module")
def table(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms for training, one of them without labels, and one for the test."""
    images = sorted((scans / "imagesTr").iterdir())[:3]
    lines = ["image,label,subject,split"]
    for image, split in zip(images, ("train", "open", "test"), strict=True):
        label = "" if split == "open" else scans / "labelsTr" / image.name
        lines.append(f"{image},{label},subject {len(lines)},{split}")
    path = tmp_path_factory.mktemp("tables") / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def table_store(table: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "store"
    classes = Store(store).manifest.classes
    labels = ",".join(f"{'+'.join(map(str, c.values))}={c.name}" for c in classes)
    prepare(table, path, spacing=6.0, labels=labels, modality="MR", processes=1)
    return path


def test_store_is_that_of_the_folder(table: Path, table_store: Path, store: Path) -> None:
    opened, of_folder = Store(table_store), {case.id: case for case in Store(store).cases}
    assert opened.manifest.layout == "csv"
    assert [case.subject for case in opened.cases] == ["subject 1", "subject 2", "subject 3"]
    for case in opened.cases:
        assert case.pixels_sha256 == of_folder[case.id].pixels_sha256
        assert (table.parent / case.source).resolve().is_file()
    train = choose_cases(opened, None, f"{table}:test")
    assert [case.subject for case in train] == ["subject 1", "subject 2"]
    assert choose_cases(opened, Path(f"{table}:test"), None) == [opened.cases[-1]]


def test_predict_and_evaluate(
    table: Path,
    finetuned: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    out = tmp_path / "predictions"
    code, _, err = poscon("predict", finetuned, table, out, "--cases", f"{table}:test")
    assert code == 0, err
    (label_map,) = out.glob("*.nii.gz")
    measured = evaluate(out, table, out=tmp_path / "results.csv")
    assert {row.subject for row in measured.rows} == {"subject 3"}
    assert {row.case for row in measured.rows} == {label_map.name.removesuffix(".nii.gz")}


def test_suggest_writes_label_maps_of_the_scans(
    table: Path, table_store: Path, tmp_path: Path
) -> None:
    chosen = suggest(table_store, tmp_path / "next", budget=1, source=table)
    (label_map,) = chosen.label_maps
    assert label_map.name == f"{Store(table_store).cases[1].id}.nii.gz"


def test_compare_takes_a_table(table: Path) -> None:
    assert located(DataSettings(), table, "--data").folder == str(table)


def test_bad_tables_are_refused_in_one_line(
    table: Path,
    table_store: Path,
    tmp_path: Path,
    poscon: Callable[..., tuple[int, str, str]],
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("image\nnone.nii.gz\n")
    for arguments, message in (
        (("prepare", bad, tmp_path / "store"), "bad.csv, line 2: image"),
        (("prepare", tmp_path / "no.csv", tmp_path / "store"), "no.csv: no such file"),
        (("prepare", table, tmp_path / "store", "--layout", "acdc"), "leave --layout out"),
        (
            ("pretrain", table_store, tmp_path / "run", "--exclude", f"{table}:val"),
            "no split 'val'",
        ),
    ):
        code, _, err = poscon(*arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    assert sorted(tmp_path.iterdir()) == [bad]
