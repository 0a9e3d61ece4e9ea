import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from poscon.errors import PosconError
from poscon.pictures.diagnostics import BLUE, GREEN, GREY, VERMILION, draw_diagnostics

START = {"step": 0.0, "alignment": 0.1, "uniformity": -0.2, "effective_rank": 3.0}
RETRIEVAL = {"retrieval_error": 0.2, "retrieval_chance": 0.33}


def curve(n: int) -> list[dict[str, float]]:
    """A plausible training of n chunks."""
    return [
        START | RETRIEVAL,
        *(
            {
                "step": 10.0 * i,
                "loss": 3 + 2 * math.exp(-i / 9),
                "chance": 4.8,
                "floor": 3.0,
                "alignment": 0.1 + 0.1 / i,
                "uniformity": -1 + math.exp(-i / 9),
                "effective_rank": 20 - 15 / i,
                "retrieval_error": 0.3 * math.exp(-i / 9),
                "retrieval_chance": 0.33,
            }
            for i in range(1, n + 1)
        ),
    ]


def pixels(path: Path) -> np.ndarray:
    return (imread(path)[..., :3] * 255).round().astype(int)


def count(picture: np.ndarray, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=-1) < 4).sum())


@pytest.mark.parametrize(
    "rows",
    [
        curve(40),
        curve(1),
        [START | RETRIEVAL],  # method none
        [START],  # one subject too
        [START, {"step": 10.0, "loss": 2.0}],  # a method without chance
        [{"step": 0.0}, {"step": 10.0, "loss": math.nan, "alignment": math.nan}],
    ],
)
def test_draws_whatever_was_logged(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    path = tmp_path / "new" / "diagnostics.png"
    draw_diagnostics(path, rows, title="pre-training (pcl)")
    picture = pixels(path)
    assert picture.shape[1] > 1000
    assert list(path.parent.iterdir()) == [path]
    for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
        assert (edge == 255).all()  # nothing is cut off


def test_every_curve_is_in_its_panel(tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.png"
    draw_diagnostics(path, curve(40), title="run")
    picture = pixels(path)
    rows, columns = (n // 2 for n in picture.shape[:2])
    left, right = picture[:, :columns], picture[:, columns:]
    for panel, colours in (
        (left[:rows], (BLUE, GREY)),
        (right[: rows // 2], (VERMILION,)),
        (right[rows // 2 : rows], (GREEN,)),
        (left[rows:], (BLUE,)),
        (right[rows:], (BLUE, GREY)),
    ):
        for colour in colours:
            assert count(panel, colour) > 200, colour
    draw_diagnostics(path, [START], title="run")
    bare = pixels(path)
    assert count(bare[:rows, :columns], BLUE) == 0
    assert 0 < count(bare[rows:, :columns], BLUE) < 200  # a point
    assert count(bare[rows:, columns:], BLUE) == 0


def test_same_rows_same_picture(tmp_path: Path) -> None:
    for name in "ab":
        draw_diagnostics(tmp_path / f"{name}.png", curve(5), title="run")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PosconError, match="cannot be written"):
        draw_diagnostics(tmp_path / "file" / "diagnostics.png", curve(2), title="run")
