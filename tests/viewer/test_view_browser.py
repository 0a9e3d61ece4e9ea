"""The page in a browser: it loads without an error, and shows what it should."""

import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from viewer_browser import Browser

from poscon.pictures.contact_sheet import COLOURS
from poscon.viewer.resources import resources
from poscon.viewer.server import ViewServer
from poscon.viewer.sources import collect

pytestmark = pytest.mark.slow  # a browser without a GPU takes seconds for every picture

LOADED = "document.body.dataset.state === 'shown'"


@pytest.fixture(scope="module")
def server(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """A page of two cases: one whose prediction is one voxel off, and one with a broken one."""
    folder = tmp_path_factory.mktemp("view")
    for number in (0, 1):
        image = nib.load(scans / "labelsTr" / f"phantom_00{number}.nii.gz")
        values = np.asanyarray(image.dataobj)
        moved = np.roll(values, 1, axis=0) if number == 0 else values[1:]
        nib.save(nib.Nifti1Image(moved, image.affine), folder / f"phantom_00{number}.nii.gz")
    with ViewServer(resources(collect(folder, scans=scans))) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def page(server: ViewServer, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        browser.open(server.url)
        browser.wait(LOADED)
        yield browser


def at_crosshair(page: Browser) -> np.ndarray:
    """The colour beside the crosshair in the axial picture, (3,)."""
    x, y = page.run(
        "(() => { const tile = nv.screenSlices.find((one) => one.axCorSag === 0);"
        " const [left, top, width, height] = tile.leftTopWidthHeight;"
        " const [x, y] = nv.scene.crosshairPos;"
        " const box = element('picture').getBoundingClientRect();"
        " const place = [left + width * (1 - x) + 3, top + height * (1 - y) + 3];"
        " return [box.left + place[0], box.top + place[1]]; })()"
    )
    colour: np.ndarray = page.picture()[round(y), round(x)]
    return colour


def test_the_page(page: Browser) -> None:
    """It shows classes in their colours, goes along the axis, and says what cannot be read."""
    # the voxel to begin with has the same class in reference and prediction
    index = page.run(
        "(() => { const [x, y, z] = shown.vox; const [nx, ny] = shown.dims;"
        " return shown.overlays.prediction.classes[x + nx * (y + ny * z)]; })()"
    )
    assert index
    page.run("element('opacity').value = 100; element('reference').value = 'off'; colour()")
    expected = np.array(to_rgb(COLOURS[index - 1])) * 255
    np.testing.assert_allclose(at_crosshair(page), expected, atol=2)
    page.run("element('prediction').value = 'off'; colour()")
    grey = at_crosshair(page)
    assert np.ptp(grey) <= 1
    page.run("element('reference').value = 'filled'; colour()")
    np.testing.assert_allclose(at_crosshair(page), expected, atol=2)
    page.run("document.querySelectorAll('#legend input').forEach((box) => box.click())")
    np.testing.assert_allclose(at_crosshair(page), grey, atol=1)

    # the position axis
    n = page.run("shown.dims[2]")
    left, top, width = page.run(
        "(({ left, top, width }) => [left, top, width])(element('strip').getBoundingClientRect())"
    )
    page.click(left + width * (3 + 0.5) / n, top + 5)
    page.wait(f"element('where').textContent === 'axial slice 4 of {n} · position {4 / n:.3f}'")
    assert page.run("Math.round(nv.frac2vox(nv.scene.crosshairPos)[2])") == 3
    page.run("element('strip').focus()")
    page.press("ArrowRight")
    page.wait("element('strip').getAttribute('aria-valuenow') === '5'")
    page.run("element('strip').blur()")
    page.press(",")
    page.wait("element('strip').getAttribute('aria-valuenow') === '4'")

    # nothing lies outside the window
    for size in ((1280, 800), (420, 800)):
        page.resize(*size)
        page.wait(f"innerWidth === {size[0]}")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run("document.documentElement.scrollHeight <= innerHeight") == (size[0] > 700)

    assert page.messages == []

    # a case that cannot be read, and back
    page.run("element('cases').selectedIndex = 1; choose(1)")
    page.wait("document.body.dataset.state === 'failed'")
    said = page.run("element('message').textContent")
    assert said.startswith("phantom_001: ")
    assert "differs from that of its image" in said
    page.run("element('cases').selectedIndex = 0; choose(0)")
    page.wait(LOADED)
