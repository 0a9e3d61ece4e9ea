"""Every picture of slices follows the radiological convention, whatever the file's axis order."""

import base64
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from poscon.commands.prepare import prepare
from poscon.pictures.contact_sheet import COLOURS, draw_contact_sheet
from poscon.pictures.orientation import CONVENTION, caption, radiological
from poscon.pictures.predictions import draw_predictions
from poscon.pictures.slices import WIDTH, outlined_pngs
from poscon.store.store import Store
from poscon.volumes.geometry import slice_geometry

SHAPE = (12, 10, 8)  # of the volume in RAS+
CODES = ("RAS", "LPS", "LAS", "PSR", "IPL", "ASL")
SIDES = {"right": (0, -1), "anterior": (1, -1), "superior": (2, -1)}
"""Axis in RAS+ and the end of it where a marker lies."""
EXPECTED = {
    "axial": {"right": "left", "anterior": "top"},
    "coronal": {"right": "left", "superior": "top"},
    "sagittal": {"anterior": "left", "superior": "top"},
}
CASES = [(plane, side) for plane, sides in EXPECTED.items() for side in sides]


def marked(side: str, thickness: int = 3) -> np.ndarray:
    """A volume in RAS+ that is 1 in a slab at one side of the patient, else 0."""
    axis, _ = SIDES[side]
    volume = np.zeros(SHAPE, np.float32)
    np.moveaxis(volume, axis, 0)[-thickness:] = 1
    return volume


def stored_as(code: str, volume: np.ndarray, *, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The volume in another axis order, and the affine that says so; ``tilt`` in radians."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
    )
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    cos, sin = np.cos(tilt), np.sin(tilt)
    affine[:2, :2] = [[cos, -sin], [sin, cos]]
    moved = nib.orientations.apply_orientation(volume, turn)
    return moved, affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)


def bright_side(picture: np.ndarray) -> str:
    """The side of (rows, columns), row 0 on top, where most of the brightness is."""
    rows, columns = picture.shape
    halves = {
        "left": picture[:, : columns // 2],
        "right": picture[:, columns // 2 :],
        "top": picture[: rows // 2],
        "bottom": picture[rows // 2 :],
    }
    return max(halves, key=lambda name: float(halves[name].sum()))


@pytest.mark.parametrize(("plane", "side"), CASES)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_a_marker_is_where_a_radiologist_expects_it(
    plane: str, side: str, code: str, tilt: float
) -> None:
    volume, affine = stored_as(code, marked(side), tilt=tilt)
    geometry = slice_geometry(volume.shape, affine, plane=plane)  # type: ignore[arg-type]
    pictures = radiological(geometry.to_stack(volume))
    for picture in pictures:
        assert bright_side(picture) == EXPECTED[plane][side]


def test_pixels_are_neither_copied_nor_changed() -> None:
    slices = np.arange(24).reshape(2, 3, 4)
    pictures = radiological(slices)
    assert np.shares_memory(pictures, slices)
    np.testing.assert_array_equal(radiological(pictures), slices)
    assert pictures[1, 0, 0] == slices[1, -1, -1]


def test_the_caption_names_the_sides() -> None:
    for plane in CONVENTION:
        assert "radiological" in caption(plane)
    assert "left is the patient's right, top is anterior" in caption("axial")
    assert "left is the patient's right, top is superior" in caption("coronal")
    assert "left is anterior, top is superior" in caption("sagittal")


def marked_store(folder: Path, code: str, side: str, plane: Any) -> Store:
    """One case whose image and label are a marker at one side of the patient."""
    volume, affine = stored_as(code, marked(side))
    noise = np.random.default_rng(0).normal(0, 0.01, volume.shape)
    for kind, data in (
        ("images", (volume * 100 + noise).astype(np.float32)),
        ("labels", volume.astype(np.uint8)),
    ):
        (folder / "source" / kind).mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, affine), folder / "source" / kind / "case.nii.gz")
    return prepare(folder / "source", folder / "store", processes=1, modality="MR", plane=plane)


def coloured(picture: np.ndarray) -> np.ndarray:
    """Where (H, W, 3 or 4) has the colour of the first class."""
    wanted = [int(COLOURS[0][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return (np.abs(picture[..., :3] - wanted).max(axis=-1) < 0.1).astype(float)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, str]]:
    """Pixels and origin of every picture that Matplotlib draws."""
    found: list[tuple[np.ndarray, str]] = []
    imshow = Axes.imshow

    def spy(axes: Axes, pixels: np.ndarray, **style: Any) -> Any:
        image = imshow(axes, pixels, **style)
        assert not axes.xaxis_inverted()
        found.append((np.asarray(pixels, float), image.origin))
        return image

    monkeypatch.setattr(Axes, "imshow", spy)
    return found


@pytest.fixture
def outlined(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Masks whose outline is drawn on a picture, where row 0 is the top too."""
    found: list[np.ndarray] = []
    contour = Axes.contour

    def spy(axes: Axes, x: np.ndarray, y: np.ndarray, mask: np.ndarray, **style: Any) -> Any:
        assert axes.yaxis_inverted()
        assert (x[0], y[0]) == (-1, -1)
        assert (np.diff(x) > 0).all()
        found.append(mask.astype(float))
        return contour(axes, x, y, mask, **style)

    monkeypatch.setattr(Axes, "contour", spy)
    return found


@pytest.mark.parametrize(("plane", "side"), CASES)
@pytest.mark.parametrize("code", ["RAS", "PSR"])
def test_the_contact_sheet(
    plane: str,
    side: str,
    code: str,
    tmp_path: Path,
    drawn: list[tuple[np.ndarray, str]],
    outlined: list[np.ndarray],
) -> None:
    draw_contact_sheet(marked_store(tmp_path, code, side, plane), tmp_path / "sheet.png")
    assert len(drawn) == 6
    for pixels, origin in drawn:
        assert origin == "upper"
        assert bright_side(pixels - pixels.min()) == EXPECTED[plane][side]
    for mask in outlined:
        assert bright_side(mask) == EXPECTED[plane][side]
    assert outlined


@pytest.mark.parametrize(("plane", "side"), CASES)
def test_pictures_of_predictions(
    plane: str, side: str, tmp_path: Path, drawn: list[tuple[np.ndarray, str]]
) -> None:
    store = marked_store(tmp_path, "LPS", side, plane)
    draw_predictions(
        tmp_path / "picture.png",
        store,
        ["case"],
        {"model": tmp_path / "source" / "labels"},
        title="the reference as its own prediction",
    )
    assert len(drawn) == 5  # three images, two overlays
    for pixels, origin in drawn:
        assert origin == "upper"
        plane_of = pixels[..., 3] if pixels.ndim == 3 else pixels - pixels.min()
        assert bright_side(plane_of) == EXPECTED[plane][side]


@pytest.mark.parametrize(("plane", "side"), CASES)
def test_slices_of_a_report(plane: str, side: str, tmp_path: Path) -> None:
    store = marked_store(tmp_path, "IPL", side, plane)
    (case,) = store.cases
    label = store.label(case)
    for png in outlined_pngs(store.image(case)[:, 0], label, label, (1.0, 1.0)):
        both = imread(io.BytesIO(base64.b64decode(png)), format="png")
        for half in (both[:, :WIDTH], both[:, -WIDTH:]):
            assert bright_side(coloured(half)) == EXPECTED[plane][side]
            assert bright_side(half[..., :3].mean(axis=-1)) == EXPECTED[plane][side]
