"""The model card says what is recorded, and no more."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from poscon.errors import PosconError
from poscon.exports.card import data_sha256, model_card, results_table, write_cases
from poscon.exports.trained import read_trained
from poscon.leakage import read_entries, roles_by_pixels


def test_a_card_without_licence_and_results(finetuned: Path) -> None:
    trained = read_trained(finetuned)
    card = model_card(trained, "USAGE", 3e-7, None, None)
    assert "license" not in card.split("---")[1]
    assert "Not stated." in card
    assert "Nothing was measured." in card
    assert "USAGE" in card
    assert "is 3e-07 of" in card
    for label_class in trained.loaded.classes:
        assert f"| {label_class.name} | {label_class.values[0]} |" in card
    settings = card.split("```yaml")[1].split("```")[0]
    assert yaml.safe_load(settings) == trained.config["settings"]
    assert "arXiv 2106.09157" in card


def test_no_name_of_a_case_or_a_folder_is_in_it(finetuned: Path, tmp_path: Path) -> None:
    trained = read_trained(finetuned)
    write_cases(tmp_path / "cases.json", trained.entries)
    for text in (
        model_card(trained, "USAGE", 0.0, "MIT", None),
        (tmp_path / "cases.json").read_text(),
    ):
        assert "phantom" not in text
        assert str(finetuned.parent) not in text
        assert trained.config["store"] not in text


def test_the_hashes_of_the_data(finetuned: Path, tmp_path: Path) -> None:
    trained = read_trained(finetuned)
    card = model_card(trained, "USAGE", 0.0, None, None)
    labelled = sorted(e["pixels_sha256"] for e in trained.entries if e["role"] == "labelled")
    expected = hashlib.sha256("".join(f"{h}\n" for h in labelled).encode()).hexdigest()
    assert data_sha256([{"pixels_sha256": h} for h in reversed(labelled)]) == expected
    assert f"| finetune | labelled | {len(labelled)} | `{expected}` |" in card
    assert "| pretrain | pretrain | 5 |" in card
    write_cases(tmp_path / "cases.json", trained.entries)
    assert roles_by_pixels(read_entries(tmp_path)) == roles_by_pixels(trained.entries)


def test_what_was_measured(finetuned: Path, tmp_path: Path) -> None:
    spread = {"mean": 0.81234, "std": None}
    row = {"name": "liver", "measured": 4, "dice": spread, "hd95_mm": {"mean": 3.21, "std": 0.5},
           "assd_mm": {"mean": None, "std": None}}  # fmt: skip
    cases = [{"case": "a", "seen": ["labelled"]}, {"case": "b", "seen": []}]
    results = tmp_path / "results.json"
    results.write_text(
        json.dumps({"summary": {"classes": [row], "mean": {**row, "name": "mean"}}, "cases": cases})
    )
    table = results_table(results)
    card = model_card(read_trained(finetuned), "USAGE", 0.0, "CC-BY-4.0", table)
    assert table in card
    assert "| liver | 4 | 0.812 | 3.2 ± 0.5 | not measured |" in card
    assert "1 of the cases were seen in training" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "CC-BY-4.0"
    assert "ASSD in mm |\n|---|---|---|---|---|\n" in card  # of an earlier version
    later = {**row, "nsd": spread, "rvd": {"mean": -0.1, "std": 0.02}}
    told = {"classes": [later], "mean": {**later, "name": "mean"}}
    stated = [{**case, "nsd_tolerance_mm": 1.5} for case in cases]
    results.write_text(json.dumps({"summary": told, "cases": stated}))
    table = results_table(results)
    assert "| class | cases | Dice | HD95 in mm | ASSD in mm | NSD at 1.5 mm | RVD |" in table
    assert "| liver | 4 | 0.812 | 3.2 ± 0.5 | not measured | 0.812 | -0.100 ± 0.020 |" in table
    for content in ("{", "[]", '{"summary": {}}'):
        results.write_text(content)
        with pytest.raises(PosconError, match=r"--results .*not results of poscon evaluate"):
            results_table(results)
