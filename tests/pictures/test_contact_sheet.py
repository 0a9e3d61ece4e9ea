import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from poscon.commands.prepare import prepare
from poscon.errors import PosconError
from poscon.pictures.contact_sheet import (
    N_CASES,
    POSITIONS,
    _shorten,
    draw_contact_sheet,
    slice_at,
)


def make_store(folder, n=2, shape=(16, 12, 9), n_classes=2, name="case"):
    """A store of n labelled noise volumes, with the classes side by side in every slice."""
    rng = np.random.default_rng(0)
    source = folder / "source"
    for kind in ("images", "labels"):
        (source / kind).mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    label = np.zeros(shape, np.uint8)
    for c in range(n_classes):
        label[c % shape[0], 2:6] = c + 1
    for i in range(n):
        image = nib.Nifti1Image(rng.normal(100, 10, shape).astype(np.float32), affine)
        nib.save(image, source / "images" / f"{name}{i:02d}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), source / "labels" / f"{name}{i:02d}.nii.gz")
    return prepare(source, folder / "store", processes=1, modality="MR")


@pytest.mark.parametrize(
    ("n", "shape", "n_classes", "name"),
    [
        (1, (16, 12, 1), 1, "case"),
        (N_CASES + 3, (6, 60, 2), 2, "case"),
        (2, (40, 12, 9), 30, "a-very-long-name-" * 6),
    ],
)
def test_draws_any_store(tmp_path, n, shape, n_classes, name):
    store = make_store(tmp_path, n, shape, n_classes, name)
    path = tmp_path / "new" / "sheet.png"
    draw_contact_sheet(store, path)
    picture = imread(path)
    assert picture.shape[1] > 1000
    assert list(path.parent.iterdir()) == [path]
    # Nothing is cut off: the margin is white all around.
    for edge in (picture[:5], picture[-5:], picture[:, :5], picture[:, -5:]):
        assert (edge == 1).all()


def test_outlines_have_the_colours_of_the_legend(tmp_path):
    path = tmp_path / "sheet.png"
    draw_contact_sheet(make_store(tmp_path), path)
    picture = (imread(path)[..., :3] * 255).round().astype(int)
    for colour in ((0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)):
        assert (np.abs(picture - colour).max(axis=-1) < 3).sum() > 100


def test_columns_rise_with_position():
    assert [slice_at(p, 6) for p in POSITIONS] == [0, 1, 2, 3, 4, 5]
    assert [slice_at(p, 3) for p in POSITIONS] == [0, 0, 1, 1, 2, 2]
    assert [slice_at(p, 1) for p in POSITIONS] == [0] * 6


def test_long_names_lose_their_middle():
    assert _shorten("abcdefghij", 10) == "abcdefghij"
    assert _shorten("abcdefghijk", 10) == "abc...hijk"


def test_replaces_its_own_picture_and_no_other(tmp_path):
    store = make_store(tmp_path)
    path = tmp_path / "sheet.png"
    draw_contact_sheet(store, path)
    draw_contact_sheet(store, path)
    path.write_bytes(b"a photograph")
    with pytest.raises(PosconError, match="is no contact sheet of poscon"):
        draw_contact_sheet(store, path)
    assert path.read_bytes() == b"a photograph"


def test_refuses_what_is_no_png(tmp_path):
    store = make_store(tmp_path)
    with pytest.raises(PosconError, match=r"ends in \.png"):
        draw_contact_sheet(store, tmp_path / "sheet.pdf")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PosconError, match="is a folder"):
        draw_contact_sheet(store, tmp_path / "folder.png")


def test_refuses_to_draw_nothing(tmp_path):
    with pytest.raises(PosconError, match="no case can be read"):
        draw_contact_sheet(make_store(tmp_path), tmp_path / "sheet.png", [])
