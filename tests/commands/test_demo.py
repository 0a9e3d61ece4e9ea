import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from poscon.commands import demo as module
from poscon.commands.demo import Demo, demo, demo_tables
from poscon.errors import PosconError
from poscon.store.store import Store

TINY = """
pretrain: {size: 16, epochs: 1, batch: 16, network: {width: 2, levels: 2}}
finetune: {size: 16, iterations: 3, batch: 4, network: {width: 2, levels: 2}}
"""


TRAINED = {f"phantom_{number:03d}" for number in range(4)}
TEST = {f"phantom_{number:03d}" for number in range(4, 7)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Demos of this module have few subjects, small networks and short trainings."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    recipe.write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SUBJECTS", 7)
        patch.setattr(module, "TEST_SUBJECTS", 3)
        patch.setattr(module, "RECIPE", str(recipe))
        yield


@pytest.fixture(scope="module")
def done(small: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Demo]:
    """A finished demo of seed 3: its folder and its result. No test changes it."""
    out = tmp_path_factory.mktemp("done") / "demo"
    return out, demo(out, seed=3)


def shown(result: Demo) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*demo_tables(result), sep="\n")
    return console.export_text()


def cases_of(run: Path) -> dict[str, set[str]]:
    """The ids of the cases that a run has seen, by role."""
    found: dict[str, set[str]] = {}
    for entry in json.loads((run / "cases.json").read_text()):
        found.setdefault(entry["role"], set()).add(entry["id"])
    return found


def test_shows_both_models_and_says_that_the_data_is_synthetic(done: tuple[Path, Demo]) -> None:
    result = done[1]
    text = " ".join(shown(result).split())
    assert "Synthetic scans show that the program works" in text
    for word in ("chosen slices", "whole subjects", "lower", "middle", "upper", "tube", "mean"):
        assert word in text
    slices, subjects = (result.evaluations[m].summary()[-1].dice.mean for m in module.MODELS)
    assert f"{slices - subjects:+.3f} in this one run with seed 3" in text
    for case, numbers in result.chosen.items():
        assert f"{case}: {', '.join(map(str, numbers))} " in text
    assert result.picture.stat().st_size > 10_000
    assert result.suggestion.stat().st_size > 10_000
    for evaluation in result.evaluations.values():
        assert {row.case for row in evaluation.rows} == TEST


def test_both_models_have_as_many_labelled_slices(done: tuple[Path, Demo]) -> None:
    out, result = done
    counts = {case.id: case.shape[0] for case in Store(out / "store").cases}
    assert len(result.whole) == 2
    assert sum(map(len, result.chosen.values())) == sum(counts[case] for case in result.whole)
    assert cases_of(out / "runs" / "slices")["labelled"] == set(result.chosen) == TRAINED
    assert cases_of(out / "runs" / "subjects")["labelled"] == set(result.whole)


def test_slices_are_chosen_without_labels_and_no_model_sees_the_test(
    done: tuple[Path, Demo],
) -> None:
    out, result = done
    assert not any(case.labelled for case in Store(out / "store_without_labels").cases)
    assert not set(result.chosen) & TEST
    for model in ("pretrain", "slices", "subjects"):
        assert set().union(*cases_of(out / "runs" / model).values()) == TRAINED


def test_goes_on_where_it_was(
    small: None, done: tuple[Path, Demo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    for stage in ("suggest", "finetune"):
        with monkeypatch.context() as patch:
            patch.setattr(module, stage, cut)
            with pytest.raises(KeyboardInterrupt):
                demo(out, seed=3)
    result = demo(out, seed=3)
    assert not {"pretrain", "suggest"} & set(result.seconds)
    again = demo(out, seed=3)
    assert not any(name.startswith("finetune") for name in again.seconds)
    # an interrupted demo ends as an uninterrupted one
    for other in (result, again):
        assert shown(other).split("time:")[0] == shown(done[1]).split("time:")[0]


def test_refuses_a_folder_that_is_something_else(done: tuple[Path, Demo]) -> None:
    out = done[0]
    with pytest.raises(PosconError, match="a demo of seed 3, modality mr"):
        demo(out, seed=4)
    with pytest.raises(PosconError, match="is no demo"):
        demo(out.parent)


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """What the README promises, at full size; the result is reported, not required."""
    result = demo(tmp_path / "demo", seed=0)
    assert all(0 < e.summary()[-1].dice.mean < 0.95 for e in result.evaluations.values())


def test_scans_on_a_full_disk_are_drawn_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, **_: object) -> None:
        (folder / "labelsTr").mkdir(parents=True)
        for number in range(module.SUBJECTS):
            (folder / "labelsTr" / f"phantom_{number:03d}.nii.gz").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_phantom", full)
    with pytest.raises(PosconError, match=r"phantom: cannot be written \(No space left"):
        demo(tmp_path / "demo")
    assert not (tmp_path / "demo" / "phantom").exists()
