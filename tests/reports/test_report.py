import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from poscon.comparison.compare import compare
from poscon.errors import PosconError
from poscon.reports import figures
from poscon.reports.comparison import training_minutes
from poscon.reports.report import report
from poscon.training.run import MetricsFile
from poscon.version import __version__

PLAN: dict[str, Any] = {
    "description": "a <test>",
    "data": {"phantom": {"subjects": 6, "seed": 3}, "prepare": {"spacing": 6.0}},
    "pretraining": [
        "random",
        "pcl",
        {"method": "simclr", "settings": {"loss": {"temperature": 0.2}}},
    ],
    "labelled": [1, 2],
    "folds": 2,
    "size": 32,
    "network": {"width": 2, "levels": 2},
    "pretrain": {"epochs": 1, "batch": 16},
    "finetune": {"iterations": 6, "batch": 4, "checkpoint_every": 3},
    "flaws": {"select_on_test": True, "pooled_dice": True},
}

PARTS = [
    "Leakage",
    "What was done",
    "Results",
    "More labels",
    "Differences",
    "Subjects and classes",
    "What flawed reporting would have said",
    "Best, median and worst subject",
    "Learning curves of fine-tuning",
    "Pre-training",
    "What the encoders see",
    "Cost",
]

IN_BROWSER = """
  const small = [...document.querySelectorAll("svg")].filter((drawn) => {
    const box = drawn.getBoundingClientRect();
    return box.width < 200 || box.height < 60 || drawn.querySelectorAll("path, use").length < 5;
  });
  const moved = [...document.querySelectorAll(".volume")].map((volume) => {
    const slider = volume.querySelector("input"), images = [...volume.querySelectorAll("img")];
    const visible = () => images.flatMap((image, i) => image.offsetHeight > 0 ? [i] : []);
    const before = visible();
    slider.value = 1;
    slider.dispatchEvent(new Event("input"));
    return [before, visible(), volume.querySelector(".at").textContent, images.length];
  });
  return {small: small.length, figures: document.querySelectorAll("svg").length, moved,
          ink: getComputedStyle(document.querySelector("svg text")).fill,
          paper: getComputedStyle(document.body).backgroundColor,
          wide: document.documentElement.scrollWidth > innerWidth};
"""

ON_A_PHONE = """
  document.querySelector("main").style.width = "360px";
  const texts = [...document.querySelectorAll("svg text")];
  const sizes = texts.map((text) => text.getBoundingClientRect().height);
  const wide = [...document.querySelectorAll("main > section > *")].filter(
    (part) => part.getBoundingClientRect().width > 361);
  return {wide: wide.length, least: Math.min(...sizes.filter((size) => size > 0))};
"""


@pytest.fixture(scope="module")
def compared(no_workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    compare(str(folder / "plan.yaml"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page_of_all(compared: Path) -> Path:
    """The report of the comparison; no test changes it."""
    return report(compared)


def headings(page: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.read_text())


def test_a_comparison_has_every_part_leakage_first(compared: Path, page_of_all: Path) -> None:
    page = page_of_all
    assert page == compared / "report.html"
    assert headings(page) == PARTS
    text = page.read_text()
    assert "a &lt;test&gt;" in text
    assert "Inductive" in text
    assert text.count("similarity of slices by position") == 2  # pcl and simclr
    assert "simclr (loss.temperature=0.2), 1 epochs" in text
    assert f"<td>poscon</td><td>{__version__}</td>" in re.sub(r"<td [^>]*>", "<td>", text)
    assert 'class="grid pairs"' in text  # similarity and map of an encoder side by side
    for row in ("random", "pcl", "simclr"):
        assert f"<td>{row}</td><td>supervised</td>" in text


def test_what_is_odd_about_the_data_is_said(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("comparison", "parts"):  # the figures take seconds, and say nothing of this
        monkeypatch.setattr(f"poscon.reports.{module}.svg", lambda *_: "")
    out = tmp_path / "out"
    shutil.copytree(compared, out)
    manifest = out / "store" / "manifest.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**about, "notes": ["The slice order is <mixed>."]}))
    assert "The slice order is &lt;mixed&gt;." in report(out).read_text()


def test_in_a_browser(page_of_all: Path, look_at: Callable[..., Any], tmp_path: Path) -> None:
    page = page_of_all
    for dark in (False, True):
        found, console = look_at(page, IN_BROWSER, tmp_path, dark=dark)
        assert console == []
        assert found["figures"] > 15
        assert found["small"] == 0
        assert not found["wide"]
        assert len(found["moved"]) == 3
        for before, after, at, n in found["moved"]:
            assert (before, after, at) == ([n // 2], [0], f"slice 1 of {n}")
        # light text on dark paper, or the other way round
        ink, paper = (sum(map(int, re.findall(r"\d+", found[k])[:3])) for k in ("ink", "paper"))
        assert (ink > paper) == dark
        assert abs(ink - paper) > 450
    found, _ = look_at(page, ON_A_PHONE, tmp_path)
    assert found["wide"] == 0
    assert found["least"] > 7  # pixels


def test_minutes_follow_from_the_slices_per_second() -> None:
    """4 + 4 steps of 6 slices at 2 and at 3 a second, and 1 step at 0.5 a second."""
    rows = [(4, 2.0), (8, 3.0), (9, 0.5)]
    found = training_minutes([{"step": s, "slices_per_second": r} for s, r in rows], 6)
    assert found * 60 == pytest.approx([12, 12 + 8, 12 + 8 + 12])


def test_the_dice_is_drawn_against_steps_and_against_minutes(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[tuple[str, str, str], dict[str, Any]] = {}
    draw = figures.curves

    def watched(lines: Any, title: str, xlabel: str, ylabel: str, **how: Any) -> Any:
        drawn[title, xlabel, ylabel] = {name: np.array(line) for name, line in lines.items()}
        return draw(lines, title, xlabel, ylabel, **how)

    monkeypatch.setattr(figures, "curves", watched)
    text = report(compared, tmp_path / "page.html").read_text()
    for labelled in (1, 2):
        title, name = f"{labelled} labelled subjects", "Dice of the test subjects"
        assert f'aria-label="{name} by minutes of training, {title}"' in text
        by_step, by_minute = drawn[title, "step", name], drawn[title, "minutes of training", name]
        assert by_step.keys() == by_minute.keys() == {"random", "pcl", "simclr"}
        assert by_step["pcl"][0].tolist() == [3, 6]
        for init, (x, y) in by_minute.items():
            assert np.array_equal(y, by_step[init][1])
            runs = [
                [
                    [float(row[k]) for k in ("slices_per_second", "validation_dice")]
                    for row in MetricsFile(path).rows()
                ]
                for path in compared.glob(f"runs/finetune-*-m{labelled}-{init}-*/metrics.csv")
            ]
            rates, dice = np.moveaxis(np.array(runs), 2, 0)
            assert rates.shape == (2, 2)  # folds, checkpoints
            assert y == pytest.approx(dice.mean(0))
            assert x == pytest.approx((np.cumsum(3 * 4 / rates, axis=1) / 60).mean(0))


def test_an_unfinished_comparison_shows_what_there_is(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compared, out)
    for run in (out / "runs").glob("finetune-fold1-*"):
        shutil.rmtree(run)
    page = report(out)
    shown = headings(page)
    assert shown[:3] == PARTS[:3]
    assert "Differences" not in shown
    assert "Not finished: 10 of 16 runs are done." in page.read_text()
    assert "1 of 2 runs" in page.read_text()


def test_a_single_run_has_the_parts_that_exist(
    pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    page = report(pretrained, tmp_path / "pretrain.html")
    assert headings(page) == [
        "What was done",
        "Pre-training",
        "Learning curves",
        "What the encoders see",
    ]
    assert "optimiser.lr" in page.read_text()
    page = report(finetuned, tmp_path / "finetune.html")
    assert headings(page) == ["What was done", "Learning curves"]
    assert re.search(r"<td>labelled</td><td[^>]*>3 cases", page.read_text())


def test_a_run_of_a_comparison_shows_its_predictions(compared: Path, tmp_path: Path) -> None:
    run = next((compared / "runs").glob("finetune-fold0-*"))
    page = report(run, tmp_path / "page.html")
    assert headings(page)[-1] == "Predictions"
    assert page.read_text().count('<input type="range"') == 3


def test_neither_a_comparison_nor_a_run(tmp_path: Path) -> None:
    with pytest.raises(PosconError, match="neither a comparison nor a run"):
        report(tmp_path)
    with pytest.raises(PosconError, match="neither a comparison nor a run"):
        report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["- a", "command: pretrain", "a: [", "{}"])
def test_a_damaged_run_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(PosconError, match=r"config\.yaml: damaged"):
        report(tmp_path)


def test_more_than_eight_look_unlike_each_other() -> None:
    names = [f"m{i}" for i in range(24)]
    assert len({tuple(figures.look(names, name).values()) for name in names}) == 24
