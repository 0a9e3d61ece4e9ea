from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from poscon.pictures import suggestion as module
from poscon.pictures.suggestion import draw_suggestion, principal_plane
from poscon.store.store import Store
from poscon.suggestion.pool import Slices


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    original = Figure.savefig

    def saving(self: Figure, *arguments: object, **options: object) -> None:
        figures.append(self)
        original(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return figures


def pictures(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for a in figure.axes if a.legend_ for text in a.legend_.get_texts()]


@pytest.mark.parametrize("encoder", [False, True])
def test_tiles_and_a_map(
    store: Path, tmp_path: Path, drawn: list[Figure], encoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TILES", 4)
    opened = Store(store)
    slices = Slices.of(opened.cases)
    slices = replace(slices, labelled=slices.subject_of == 0)
    n = len(slices.middles)
    chosen = [np.array([row]) for row in np.flatnonzero(~slices.labelled)[[3, 9, 30, 31, 40]]]
    features = np.random.default_rng(0).random((n, 6)) if encoder else None
    draw_suggestion(tmp_path / "a.png", opened, slices, chosen, features, title="title")
    assert imread(tmp_path / "a.png").shape[2] == 4
    (figure,) = drawn
    assert figure.get_suptitle() == "title, 5 chosen (the first 4 are drawn)"
    tiles = pictures(figure)
    assert len(tiles) == 4
    case = slices.cases[slices.case_of[chosen[0][0]]]
    number = slices.slice_of[chosen[0][0]]
    assert tiles[0].get_title().startswith(f"1: {case.id}\nslice {number}, at ")
    np.testing.assert_array_equal(
        tiles[0].images[0].get_array(), opened.image(case)[number, 0, ::-1, ::-1].astype(np.float32)
    )
    assert legend(figure)[-2:] == ["labelled already", "chosen"]
    if not encoder:
        names = [text.get_text() for text in figure.axes[-1].get_yticklabels()]
        assert sorted(names) == sorted(slices.subject_names)
        assert names[:2] == list(slices.subject_names[1:3])  # those with a choice come first


def test_whole_subjects_show_their_middle_slice(
    store: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    opened = Store(store)
    slices = Slices.of(opened.cases)
    slices = replace(slices, labelled=np.zeros(len(slices.middles), bool))
    members = np.flatnonzero(slices.subject_of == 2)
    draw_suggestion(tmp_path / "a.png", opened, slices, [members], None, title="")
    (tile,) = pictures(drawn[0])
    assert f"slice {len(members) // 2}," in tile.get_title()


def test_many_subjects_are_not_all_drawn(
    store: Path, tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SUBJECTS", 2)
    opened = Store(store)
    slices = Slices.of(opened.cases)
    row = int(np.flatnonzero(slices.subject_of == 4)[0])
    draw_suggestion(tmp_path / "a.png", opened, slices, [np.array([row])], None, title="")
    axes = drawn[0].axes[-1]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [slices.subject_names[4], slices.subject_names[0]]
    assert "3 more subjects are not drawn" in axes.get_title()


def test_the_plane_is_that_of_the_singular_values() -> None:
    points = np.random.default_rng(0).standard_normal((30, 5)) * [5, 3, 1, 1, 0.1]
    plane, explained = principal_plane(points)
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane), np.abs(left * values)[:, :2], atol=1e-8)
    assert explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    flat, share = principal_plane(np.ones((4, 1)))
    assert not flat.any()
    assert share == 0
