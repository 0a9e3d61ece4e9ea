import functools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from poscon.errors import PosconError
from poscon.volumes import phantom
from poscon.volumes.phantom import PHANTOM_LABELS, PhantomVolume, draw_phantom, write_phantom
from poscon.volumes.scan import read_scan

SUBJECTS = 12
drawn = functools.cache(draw_phantom)
"""What no test changes is drawn once."""


@pytest.fixture(scope="module", params=["mr", "ct"])
def modality(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def volumes(modality: str) -> list[PhantomVolume]:
    return [drawn(0, subject, modality) for subject in range(SUBJECTS)]


@pytest.fixture
def drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phantoms are drawn whenever they are written, as outside of the tests."""
    monkeypatch.setattr(phantom, "draw_phantom", draw_phantom)


def canonical(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asanyarray(nib.as_closest_canonical(nib.Nifti1Image(voxels, affine)).dataobj)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_writes_the_same_bytes_whatever_the_number_of_subjects(
    tmp_path, modality, drawn_anew
):
    write_phantom(tmp_path / "a", subjects=2, seed=5, modality=modality)
    write_phantom(tmp_path / "b", subjects=2, seed=5, modality=modality)
    write_phantom(tmp_path / "c", subjects=1, seed=5, modality=modality)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert len(a) == 5
    del c["dataset.json"]
    assert len(c) == 2
    assert c.items() <= a.items()


def test_rewriting_later_changes_no_byte(tmp_path, monkeypatch):
    write_phantom(tmp_path / "now", subjects=1)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_phantom(tmp_path / "later", subjects=1)
    assert files(tmp_path / "now") == files(tmp_path / "later")


def test_seeds_and_subjects_differ(modality):
    images = [drawn(*which, modality).image for which in [(0, 0), (0, 1), (1, 0)]]
    assert len({image.tobytes() for image in images}) == 3


def test_ct_and_mr_show_the_same_body():
    ct, mr = drawn(0, 1, "ct"), drawn(0, 1, "mr")
    np.testing.assert_array_equal(ct.labels, mr.labels)
    np.testing.assert_array_equal(ct.affine, mr.affine)
    assert not np.array_equal(ct.image, mr.image)


def test_every_subject_has_every_organ(volumes):
    for volume in volumes:
        counts = np.bincount(volume.labels.ravel())
        assert len(counts) == 1 + len(PHANTOM_LABELS.classes)
        assert counts.min() > 100
        assert counts[1:].sum() < 0.1 * volume.labels.size


@pytest.mark.parametrize("structure", phantom._ANATOMY)
def test_a_structure_fills_nothing_of_the_slices_that_are_left_out(structure) -> None:
    axes = (np.linspace(-0.3, 1.3, 60), np.linspace(-1, 1, 16), np.linspace(-0.8, 0.8, 14))
    z, x, y = np.meshgrid(*axes, indexing="ij")
    found = {}
    for name, least, most in (("some", z.min((1, 2)), z.max((1, 2))), ("all", -np.inf, np.inf)):
        heights = np.stack(np.broadcast_arrays(least, most, z[:, 0, 0])[:2])
        rng = np.random.default_rng(3)
        found[name] = phantom._fill(rng, structure, x, y, z, heights, edge=0.03)
    (where, some), (_, everything) = found["some"], found["all"]
    assert everything.shape == z.shape
    expected = np.zeros_like(everything)
    expected[where] = some
    np.testing.assert_array_equal(everything, expected)


def test_organs_follow_one_another_upwards(volumes):
    for volume in volumes:
        labels = canonical(volume.labels, volume.affine)
        lower, middle, upper, tube = (
            np.argwhere(labels == value)[:, 2] / labels.shape[2] for value in PHANTOM_LABELS.values
        )
        assert lower.mean() < middle.mean() < upper.mean()
        assert lower.mean() < tube.mean() < upper.mean()
        assert lower.max() > middle.min()  # neighbours share slices
        assert middle.max() > upper.min()
        assert np.ptp(tube) > 0.5


def test_organs_lie_on_the_same_side_of_the_body(volumes):
    for volume in volumes:
        labels = canonical(volume.labels, volume.affine)
        x = [np.argwhere(labels == value)[:, 0].mean() for value in PHANTOM_LABELS.values]
        assert x[2] < x[1]  # upper is to the left of middle
        assert x[3] < x[0]  # tube to the left of lower


def test_geometry_is_that_of_thick_slices_in_many_orientations(volumes):
    orientations = [nib.aff2axcodes(volume.affine) for volume in volumes]
    assert len(set(orientations)) >= 3
    assert any(codes[2] not in "SI" for codes in orientations)
    for volume in volumes:
        assert volume.image.shape == volume.labels.shape
        to_canonical = nib.as_closest_canonical(nib.Nifti1Image(volume.labels, volume.affine))
        affine, shape = to_canonical.affine, to_canonical.shape
        x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
        assert 2.2 <= x <= 2.8
        assert x == pytest.approx(y)
        assert 5 <= z <= 7
        assert all(72 <= n <= 88 for n in shape[:2])
        assert 20 <= shape[2] <= 30
        directions = affine[:3, :3] / [x, y, z]
        np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-9)
        assert not np.allclose(directions, np.eye(3), atol=1e-3)  # oblique
        assert np.abs(affine[:3, 3]).max() > 10


def test_ct_is_in_hounsfield_units():
    for subject in range(SUBJECTS):
        volume = drawn(0, subject, "ct")
        assert volume.image.dtype == np.int16
        assert volume.image.min() >= -1024
        assert np.median(volume.image[volume.image < -900]) == pytest.approx(-1000, abs=30)
        assert volume.image.max() > 300  # bone
        for value in PHANTOM_LABELS.values:
            assert 40 < np.median(volume.image[volume.labels == value]) < 180


def test_mr_has_an_arbitrary_scale_and_no_negative_voxel():
    volumes = [drawn(0, subject, "mr") for subject in range(SUBJECTS)]
    scales = [np.percentile(volume.image, 99) for volume in volumes]
    assert max(scales) > 3 * min(scales)
    assert all(volume.image.min() >= 0 for volume in volumes)


def test_files_are_a_decathlon_data_set(tmp_path, modality):
    write_phantom(tmp_path, subjects=2, modality=modality)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["modality"] == {"0": {"mr": "MRI", "ct": "CT"}[modality]}
    assert description["labels"] == {
        "0": "background", "1": "lower", "2": "middle", "3": "upper", "4": "tube"
    }  # fmt: skip
    assert description["numTraining"] == len(description["training"]) == 2
    for subject, entry in enumerate(description["training"]):
        volume = drawn(0, subject, modality)
        image, label = read_scan(tmp_path / entry["image"]), read_scan(tmp_path / entry["label"])
        np.testing.assert_array_equal(image.data, volume.image)
        np.testing.assert_array_equal(label.data, volume.labels)
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.affine, volume.affine, atol=1e-4)
        assert image.header["sform_code"] == image.header["qform_code"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "pet"}, "modality must be mr or ct, got 'pet'"),
        ({"subjects": 0}, "subjects must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(PosconError, match=message):
        write_phantom(tmp_path / "phantom", **settings)
    assert not (tmp_path / "phantom").exists()


def test_a_folder_with_other_cases_is_refused(tmp_path):
    write_phantom(tmp_path, subjects=2)
    write_phantom(tmp_path, subjects=2)  # again is fine
    with pytest.raises(PosconError, match=r"imagesTr.phantom_001.*empty folder"):
        write_phantom(tmp_path, subjects=1)
