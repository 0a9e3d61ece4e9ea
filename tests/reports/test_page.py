import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as images
from matplotlib.figure import Figure

from poscon.pictures.slices import MOST, WIDTH, outlined_pngs
from poscon.reports.page import INK, Picture, Section, Slices, Table, render, style, svg


def figure(title: str = "a title") -> Figure:
    with style():
        made = Figure(figsize=(4, 3), layout="constrained")
        axes = made.add_subplot()
        axes.plot([0, 1], [0, 1], "o-")
        axes.set(title=title, xlabel="step")
    return made


def test_a_figure_takes_its_text_colour_from_the_page() -> None:
    text = svg(figure(), "one")
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert INK not in text
    assert "a title" in text  # text stays text, to be searched and read
    head = text[: text.index(">")]
    assert "viewBox" in head
    assert not re.search(r'\s(width|height)="', head)


def test_ids_of_two_figures_do_not_meet_and_are_all_there() -> None:
    texts = [svg(figure(), name) for name in ("one", "the other")]
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1]
    for text, own in zip(texts, ids, strict=True):
        used = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
        assert used
        assert set(used) <= own


def test_a_figure_is_the_same_every_time() -> None:
    assert svg(figure(), "one") == svg(figure(), "one")


def test_a_page_needs_nothing_from_anywhere_and_escapes_names() -> None:
    page = render(
        "<b>title</b>",
        "sub & title",
        [
            Section("A part", ["x < y"], [Picture(svg(figure("p<q"), "p"), 'says "it"')]),
            Section("Volumes", slices=[Slices("case <1>", ["AAAA", "BBBB"], [("#123456", "RV")])]),
            Section("Alarm", tables=[Table(("a", "b"), [("<i>", "2")], "note")], alarm=True),
        ],
    )
    assert "&lt;b&gt;title&lt;/b&gt;" in page
    assert "case &lt;1&gt;" in page
    assert "&lt;i&gt;" in page
    assert "<svg" in page
    # the SVG namespaces are names, not addresses that are fetched
    addresses = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)
    assert not addresses
    assert not re.findall(r"url\((?!#)", page)
    for anchor in re.findall(r'href="#(a-part|volumes|alarm)"', page):
        assert f'id="{anchor}"' in page


def test_a_line_break_does_not_tear_an_interval_apart() -> None:
    cell = "-0.01 [-0.02, +0.01], p = 2e-05: not distinguishable"
    page = render("t", "s", [Section("A", tables=[Table(("a",), [(cell,)])])])
    told = re.search(r"<td[^>]*>(.*?)</td>", page)
    assert told is not None
    assert re.split(r"[ -]", told[1]) == [
        "",
        "0.01",
        "[\u20110.02,\u00a0+0.01],",
        "p\u00a0=\u00a02e\u201105:",
        "not",
        "distinguishable",
    ]


def test_slices_are_reference_beside_prediction_the_right_way_up() -> None:
    image = np.zeros((3, 20, 10), np.float16)
    image[:, 2] = 1  # a line low in the scan, where rows rise
    reference, prediction = np.zeros((2, 3, 20, 10), np.uint8)
    reference[1, 10:15, 2:8] = 1
    pngs = outlined_pngs(image, reference, prediction, (1.0, 1.0))
    assert len(pngs) == 3
    shown = images.imread(io.BytesIO(base64.b64decode(pngs[1])), format="png")[..., :3]
    height, width = shown.shape[:2]
    assert (height, width) == (2 * WIDTH, 2 * WIDTH + 4)
    bright = np.flatnonzero(shown[:, -1].mean(-1) > 0.9)
    assert bright.min() > height / 2  # the low line is at the bottom
    coloured = np.ptp(shown, axis=-1) > 0.2
    assert coloured[:, :WIDTH].any()
    assert not coloured[:, WIDTH:].any()
    rows = np.flatnonzero(coloured.any(axis=1))
    assert rows.max() < height / 2  # rows 10 to 15 of 20 are in the upper half


def test_what_fills_the_frame_has_no_outline_there() -> None:
    full = np.ones((1, 8, 8), np.uint8)
    (png,) = outlined_pngs(np.random.default_rng(0).random((1, 8, 8)), full, full, (1.0, 1.0))
    shown = images.imread(io.BytesIO(base64.b64decode(png)), format="png")[..., :3]
    assert np.ptp(shown, axis=-1).max() < 0.01


@pytest.mark.parametrize("n", [1, MOST, MOST + 57])
def test_long_volumes_are_thinned_evenly(n: int) -> None:
    empty = np.zeros((n, 4, 4), np.uint8)
    assert len(outlined_pngs(np.zeros((n, 4, 4)), empty, empty, (1.0, 1.0))) == min(n, MOST)


def test_pictures_that_belong_together_stand_side_by_side(
    look_at: Callable[..., Any], tmp_path: Path
) -> None:
    pictures = [Picture(svg(figure(), str(n)), str(n)) for n in range(4)]
    page = tmp_path / "page.html"
    page.write_text(render("t", "s", [Section("A", pictures=pictures, paired=True)]))
    tops = (
        "return [...document.querySelectorAll('figure')].map((f) => f.getBoundingClientRect().top)"
    )
    (first, second, third, fourth), _ = look_at(page, tops, tmp_path)
    assert first == second < third == fourth
