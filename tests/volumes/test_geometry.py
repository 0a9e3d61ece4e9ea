"""Slicing a volume in canonical orientation: exact, and the same for every axis order of a file."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poscon.volumes.affine import checked_affine
from poscon.volumes.geometry import slice_geometry

CODES = [
    "".join("LRPAIS"[2 * axis + sign] for axis, sign in zip(order, signs, strict=True))
    for order in permutations(range(3))
    for signs in product((0, 1), repeat=3)
]
"""All 48 ways to store a volume, as nibabel names them."""

PLANES = st.sampled_from(["auto", "axial", "coronal", "sagittal"])


def stored_as(code: str, volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume (given in RAS+) in another axis order, with the affine that says so."""
    order = nib.orientations.axcodes2ornt(code)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), order)
    moved = nib.orientations.apply_orientation(volume, turn)
    return moved, affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)


@st.composite
def volumes(draw):
    """A volume whose voxels all differ, and an affine that may be oblique."""
    shape = tuple(draw(st.tuples(*[st.integers(1, 5)] * 3)))
    volume = np.arange(np.prod(shape)).reshape(shape)
    affine = np.eye(4)
    tilt = draw(st.floats(-0.3, 0.3))
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine[:3, :3] = turn * draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.25, 7.0])] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.integers(-50, 50)] * 3))
    return volume, affine


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@settings(deadline=None)
@given(volumes(), st.sampled_from(CODES), PLANES, st.booleans())
def test_back_and_forth_changes_nothing(scan, code, plane, reverse):
    volume, affine = stored_as(code, *scan)
    geometry = slice_geometry(volume.shape, affine, plane=plane, reverse=reverse)
    stack = geometry.to_stack(volume)
    assert stack.shape == geometry.stack_shape
    np.testing.assert_array_equal(geometry.to_volume(stack), volume)
    assert np.shares_memory(stack, volume)


@settings(deadline=None)
@given(volumes(), st.sampled_from(CODES), PLANES, st.booleans())
def test_the_stack_does_not_depend_on_the_axis_order_of_the_file(scan, code, plane, reverse):
    volume, affine = stored_as(code, *scan)
    here = slice_geometry(scan[0].shape, scan[1], plane=plane, reverse=reverse)
    there = slice_geometry(volume.shape, affine, plane=plane, reverse=reverse)
    np.testing.assert_array_equal(there.to_stack(volume), here.to_stack(scan[0]))
    assert there.spacing == pytest.approx(here.spacing)
    assert there.plane == here.plane


@pytest.mark.parametrize(
    ("plane", "axes"), [("axial", (2, 1, 0)), ("coronal", (1, 2, 0)), ("sagittal", (0, 2, 1))]
)
def test_slices_rows_and_columns_run_along_the_canonical_axes(plane, axes):
    """In RAS+ nothing is flipped: slices towards superior, anterior or right."""
    geometry = slice_geometry((3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]), plane=plane)
    volume = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(geometry.to_stack(volume), volume.transpose(axes))
    assert geometry.spacing == tuple((1.0, 2.0, 3.0)[axis] for axis in axes)
    assert geometry.plane == plane


@settings(deadline=None)
@given(volumes(), st.sampled_from(CODES), PLANES)
def test_reverse_turns_the_slices_round_and_nothing_else(scan, code, plane):
    volume, affine = stored_as(code, *scan)
    straight = slice_geometry(volume.shape, affine, plane=plane)
    reverse = slice_geometry(volume.shape, affine, plane=plane, reverse=True)
    np.testing.assert_array_equal(reverse.to_stack(volume), straight.to_stack(volume)[::-1])


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((1, 1, 5), "axial"),
        ((1, 5, 1), "coronal"),
        ((5, 1, 1), "sagittal"),
        ((1, 1, 1), "axial"),
        ((1.4, 1, 1), "axial"),  # nearly isotropic: does not tell how it was acquired
        ((1.5, 1, 1), "sagittal"),
        ((1, 1.5, 1), "coronal"),
        ((1, 5, 5), "axial"),  # two wide axes: no single one is across the slices
        ((5, 4, 1), "axial"),
        ((5, 3, 1), "sagittal"),
    ],
)
@pytest.mark.parametrize("code", ["RAS", "LPI", "ASR", "SPL"])
def test_the_plane_it_was_acquired_in(spacing, plane, code):
    volume, affine = stored_as(code, np.zeros((4, 4, 4)), np.diag([*map(float, spacing), 1.0]))
    assert slice_geometry(volume.shape, affine).plane == plane


def test_a_stated_plane_is_taken_whatever_the_spacing():
    affine = np.diag([5.0, 1.0, 1.0, 1.0])
    assert slice_geometry((2, 3, 4), affine, plane="coronal").plane == "coronal"


def test_a_stated_spacing_is_in_file_order_and_decides_the_plane():
    volume, affine = stored_as("SAR", np.zeros((4, 5, 6)), np.eye(4))
    stated = checked_affine([affine], (8.0, 1.25, 1.5), where="here")
    geometry = slice_geometry(volume.shape, stated)
    assert geometry.plane == "axial"  # the file's first axis runs towards superior
    assert geometry.spacing == (8.0, 1.25, 1.5)
    volume, affine = stored_as("RSA", np.zeros((4, 5, 6)), np.eye(4))
    stated = checked_affine([affine], (1.25, 1.5, 8.0), where="here")
    geometry = slice_geometry(volume.shape, stated)
    assert geometry.plane == "coronal"
    assert geometry.spacing == (8.0, 1.5, 1.25)


def test_labels_and_channels_of_any_type_are_sliced():
    geometry = slice_geometry((2, 3, 4), np.diag([-1.0, 1.0, -3.0, 1.0]))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert geometry.to_stack(labels).dtype == np.uint8
    np.testing.assert_array_equal(geometry.to_stack(labels)[0], labels[::-1, :, -1].T)
