"""What is believed of a header, and when two grids lie at the same place."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poscon.errors import PosconError
from poscon.volumes.affine import (
    apart_mm,
    checked_affine,
    nifti_affines,
    same_place,
    same_voxels,
    spacing_of,
    voxel_mm3,
)

SIZES = st.tuples(*[st.floats(0.3, 9)] * 3)
ANGLES = st.tuples(*[st.floats(-np.pi, np.pi)] * 3)
SHAPE = (5, 6, 7)


def affine_of(sizes: tuple[float, ...], angles: tuple[float, ...]) -> np.ndarray:
    rotation = nib.eulerangles.euler2mat(*angles)
    return nib.affines.from_matvec(rotation * sizes, [-80.5, 30, 12])


@given(SIZES, ANGLES, st.sampled_from([(0, 0), (0, 1), (1, 0), (2, 3)]))
def test_a_good_header_is_read_as_nibabel_reads_it(
    sizes: tuple[float, ...], angles: tuple[float, ...], codes: tuple[int, int]
) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_zooms(sizes)
    sform, qform = codes
    if sform:
        header.set_sform(affine_of(sizes, angles), sform)
    if qform:
        header.set_qform(affine_of(sizes[::-1], angles[::-1]), qform)
    affine, *_ = nifti_affines(header)
    np.testing.assert_allclose(affine, header.get_best_affine(), atol=1e-4)


@given(SIZES, ANGLES, st.sampled_from([("meter", 1e-3), ("micron", 1e3), ("mm", 1), (0, 1)]))
def test_units_become_millimetres(
    sizes: tuple[float, ...], angles: tuple[float, ...], unit: tuple[str | int, float]
) -> None:
    name, per_mm = unit
    affine = affine_of(sizes, angles)
    scaled = np.diag([per_mm, per_mm, per_mm, 1]) @ affine
    for form in ("set_sform", "set_qform"):
        header = nib.Nifti1Header()
        header.set_data_shape(SHAPE)
        getattr(header, form)(scaled, 1)
        header.set_xyzt_units(name)
        read = checked_affine(nifti_affines(header), None, where="here")
        # float32 holds a quaternion near a half turn to sqrt(3 eps) = 6e-4, an entry to twice that
        np.testing.assert_allclose(read, affine, atol=2e-3 * max(sizes))


@pytest.mark.parametrize(("unit", "per_mm"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1)])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_the_slice_of_a_flat_file_is_1_mm_thick_in_any_unit(
    unit: str, per_mm: float, qform_code: int
) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((5, 6))
    header["pixdim"][1:3] = 2 * per_mm, 3 * per_mm
    header["qform_code"] = qform_code
    header.set_xyzt_units(unit)
    affine = checked_affine(nifti_affines(header), None, where="here")
    assert spacing_of(affine) == pytest.approx((2, 3, 1))


def absurd() -> dict[str, np.ndarray]:
    affines = {
        "zero": np.diag([0, 0, 0, 1.0]),
        "no slices": np.diag([1, 1, 0, 1.0]),
        "NaN": np.diag([1, np.nan, 1, 1]),
        "infinite": np.diag([1, 1, np.inf, 1]),
        "metres": np.diag([0.001, 0.001, 0.002, 1]),
        "micrometres": np.diag([700.0, 700, 3000, 1]),
        "one absurd": np.diag([1, 1, 101.0, 1]),
    }
    affines["one plane"] = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]])
    affines["nearly one plane"] = affines["one plane"] + np.diag([0, 0, 1e-3, 0])
    affines["no origin"] = np.eye(4)
    affines["no origin"][0, 3] = np.nan
    return affines


@pytest.mark.parametrize("name", absurd())
def test_absurd_affines_are_refused(name: str) -> None:
    with pytest.raises(PosconError, match=r"^here: .*with --source-spacing$") as caught:
        checked_affine([absurd()[name]], None, where="here")
    assert "\n" not in str(caught.value)
    with pytest.raises(PosconError, match=r"with spacing$"):
        checked_affine([absurd()[name]], None, where="here", option="spacing")


@pytest.mark.parametrize(
    "stated", [(0, 1, 1), (1, -1, 1), (1, 1, np.nan), (np.inf, 1, 1), (0.001, 1, 1), (1, 1, 101)]
)
def test_an_absurd_stated_spacing_is_refused(stated: tuple[float, float, float]) -> None:
    with pytest.raises(PosconError, match=r"^--source-spacing: must be three sizes from 0\.01"):
        checked_affine([np.eye(4)], stated, where="here")


@given(ANGLES, st.sampled_from(["pixdim 0", "pixdim negative", "pixdim NaN", "sform 0"]), SIZES)
def test_a_stated_spacing_takes_the_directions_that_the_qform_has(
    angles: tuple[float, ...], fault: str, stated: tuple[float, float, float]
) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_qform(affine_of((1, 1, 1), angles), 1)
    if fault == "sform 0":
        header.set_sform(np.zeros((4, 4)), 1)
    else:
        value = {"pixdim 0": 0, "pixdim negative": -1, "pixdim NaN": np.nan}[fault]
        header["pixdim"][3] = value
    affines = nifti_affines(header)
    with pytest.raises(PosconError, match="singular or not finite"):
        checked_affine(affines, None, where="here")
    affine = checked_affine(affines, stated, where="here")
    np.testing.assert_allclose(affine, affine_of(stated, angles), atol=1e-3 * max(stated))
    assert spacing_of(affine) == pytest.approx(stated)


def test_directions_that_nothing_states_are_not_guessed() -> None:
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_sform(np.zeros((4, 4)), 1)
    with pytest.raises(PosconError, match="does not state the directions of its axes"):
        checked_affine(nifti_affines(header), (1, 1, 2), where="here")


def test_a_header_without_directions_has_its_usual_ones_with_a_stated_spacing() -> None:
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_zooms((1, 1, 2))
    expected = header.get_base_affine()
    header["pixdim"][3] = 0
    affine = checked_affine(nifti_affines(header), (1, 1, 2), where="here")
    np.testing.assert_array_equal(affine[:3, :3], expected[:3, :3])


@given(SIZES, ANGLES, st.integers(0, 2), st.floats(0.001, 0.2), st.integers(0, 2))
def test_same_place_is_a_share_of_the_smallest_voxel_side(
    sizes: tuple[float, ...], angles: tuple[float, ...], axis: int, share: float, column: int
) -> None:
    affine = affine_of(sizes, angles)
    moved = affine.copy()
    moved[axis, 3] += share * min(sizes)
    distance = apart_mm(SHAPE, affine, moved)
    assert distance == pytest.approx(share * min(sizes), rel=1e-6)
    if abs(share - 0.05) > 1e-6:
        assert same_place(SHAPE, affine, moved) == same_place(SHAPE, moved, affine)
        assert same_place(SHAPE, affine, moved) == (share < 0.05)
    stretched = affine.copy()
    stretched[:3, column] *= 1 + share
    far = share * sizes[column] * (SHAPE[column] - 1)
    assert apart_mm(SHAPE, affine, stretched) == pytest.approx(far, rel=1e-6)


@given(SIZES, ANGLES, st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_the_same_voxels_in_another_order_of_axes(
    sizes: tuple[float, ...], angles: tuple[float, ...], order: list[int], flips: tuple[int, ...]
) -> None:
    affine = affine_of(sizes, angles)
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    turned = image.as_reoriented(list(zip(order, flips, strict=True)))
    assert same_voxels(SHAPE, affine, turned.shape, turned.affine)
    moved = turned.affine.copy()
    moved[:3, 3] += min(sizes) / 2
    assert not same_voxels(SHAPE, affine, turned.shape, moved)
    assert not same_voxels((5, 6, 8), affine, turned.shape, turned.affine)


@given(SIZES, ANGLES)
def test_the_volume_of_a_voxel(sizes: tuple[float, ...], angles: tuple[float, ...]) -> None:
    """Slices that are tilted by 25 degrees lie nearer to each other than along the table."""
    affine = affine_of(sizes, angles)
    assert voxel_mm3(affine) == pytest.approx(np.prod(sizes))
    tilt = np.radians(25)
    tilted = affine.copy()
    tilted[:3, 2] = np.cos(tilt) * affine[:3, 2] + np.sin(tilt) * affine[:3, 1] * (
        sizes[2] / sizes[1]
    )
    assert voxel_mm3(tilted) == pytest.approx(np.prod(sizes) * np.cos(tilt))
    doubled = (2 * sizes[0], sizes[1], sizes[2])
    assert voxel_mm3(tilted, doubled) == pytest.approx(2 * np.prod(sizes) * np.cos(tilt))
