import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from poscon.metrics import segmentation_metrics

SPACINGS = st.tuples(*[st.floats(0.3, 10.0)] * 3)
NEIGHBOURS = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def brute_surface(mask, counted=None):
    """Voxels of the mask with a face neighbour that counts outside it, or outside the volume.

    There is no neighbour across a single slice. If no voxel has such a neighbour, it is all.
    """
    inside = {tuple(map(int, voxel)) for voxel in np.argwhere(mask)}
    unknown = set() if counted is None else {tuple(map(int, v)) for v in np.argwhere(~counted)}
    steps = [s for s in NEIGHBOURS if mask.shape[np.flatnonzero(s)[0]] > 1]
    found = [
        v
        for v in inside
        if any(tuple(np.add(v, step).tolist()) not in inside | unknown for step in steps)
    ]
    return found or list(inside)


def brute_distances(from_surface, to_surface, spacing):
    return [
        min(math.dist(np.multiply(v, spacing), np.multiply(w, spacing)) for w in to_surface)
        for v in from_surface
    ]


def brute_force(a, b, spacing, counted=None):
    surface_a, surface_b = brute_surface(a, counted), brute_surface(b, counted)
    ab = brute_distances(surface_a, surface_b, spacing)
    ba = brute_distances(surface_b, surface_a, spacing)
    hd95 = max(np.percentile(ab, 95), np.percentile(ba, 95))
    dice = 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))
    return dice, hd95, np.mean(ab + ba)


def brute_nsd(a, b, spacing, tolerance):
    """Share of the surface voxels of both that lie within a tolerance of the other's surface."""
    surface_a, surface_b = brute_surface(a), brute_surface(b)
    distances = brute_distances(surface_a, surface_b, spacing)
    distances += brute_distances(surface_b, surface_a, spacing)
    assume(all(abs(each - tolerance) > 1e-4 * tolerance for each in distances))
    return np.mean(np.array(distances) <= tolerance)


@st.composite
def two_masks(draw, single_slice=False):
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    if single_slice:
        shape = (*shape[:2], 1)
    masks = [draw(hnp.arrays(bool, shape)) for _ in range(2)]
    if draw(st.booleans()):  # mostly full masks have an interior and reach the border
        masks = [~(m & np.roll(m, 1)) for m in masks]
    assume(all(m.any() for m in masks))
    return masks


def measure(a, b, spacing, **options):
    maps = a.astype(np.uint8), b.astype(np.uint8)
    (metrics,) = segmentation_metrics(*maps, spacing, ["organ"], **options)
    return metrics


@settings(max_examples=40, deadline=None)
@given(two_masks(), SPACINGS)
def test_equals_brute_force(masks, spacing):
    m = measure(*masks, spacing)
    assert (m.dice, m.hd95_mm, m.assd_mm) == pytest.approx(brute_force(*masks, spacing), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(two_masks(single_slice=True), SPACINGS)
def test_equals_brute_force_on_a_single_slice(masks, spacing):
    m = measure(*masks, spacing)
    assert (m.dice, m.hd95_mm, m.assd_mm) == pytest.approx(brute_force(*masks, spacing), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(two_masks(), SPACINGS, st.integers(0, 2**32 - 1), st.booleans())
def test_equals_brute_force_where_not_all_voxels_count(masks, spacing, seed, slices):
    draw = np.random.default_rng(seed)
    shape = masks[0].shape
    counted = draw.random(shape) < 0.7
    if slices:
        counted = np.broadcast_to(draw.random(shape[2]) < 0.7, shape).copy()
    a, b = (mask & counted for mask in masks)
    assume(a.any() and b.any())
    m = measure(*masks, spacing, counted=counted)
    expected = brute_force(a, b, spacing, counted)
    assert (m.dice, m.hd95_mm, m.assd_mm) == pytest.approx(expected, rel=1e-4)


def test_one_labelled_slice_of_a_volume_is_measured_as_a_file_of_one_slice():
    """A disc that is 3 mm too small is not taken for nearly right because of its inner voxels."""
    grid = np.indices((40, 40, 5))
    radius = np.hypot(grid[0] - 20, grid[1] - 20)
    large, small = radius < 15, radius < 12
    counted = np.zeros(large.shape, bool)
    counted[:, :, 2] = True
    partly = measure(small, large, (1.0, 1.0, 5.0), counted=counted, nsd_tolerance_mm=1.5)
    alone = measure(small[:, :, 2:3], large[:, :, 2:3], (1.0, 1.0, 5.0), nsd_tolerance_mm=1.5)
    assert (partly.nsd, partly.assd_mm) == (alone.nsd, alone.assd_mm)
    assert partly.nsd == 0.0
    assert partly.assd_mm == pytest.approx(3.0, abs=0.3)


def test_the_volume_of_oblique_voxels_is_stated():
    a = np.ones((2, 2, 2), bool)
    m = measure(a, a, (1.0, 1.0, 5.0), voxel_mm3=4.5)
    assert (m.volume_ml, m.reference_volume_ml) == (0.036, 0.036)


def test_equals_brute_force_where_surfaces_have_an_interior():
    grid = np.indices((14, 12, 9))
    a = sum((g - c) ** 2 for g, c in zip(grid, (6, 6, 4), strict=True)) < 25
    b = sum((g - c) ** 2 / r for g, c, r in zip(grid, (8, 5, 5), (16, 30, 9), strict=True)) < 1
    spacing = (1.25, 1.5, 8.0)
    m = measure(a, b, spacing)
    assert (m.dice, m.hd95_mm, m.assd_mm) == pytest.approx(brute_force(a, b, spacing), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(two_masks(), SPACINGS)
def test_symmetric_and_never_beyond_the_diagonal(masks, spacing):
    a, b = masks
    there, back = measure(a, b, spacing), measure(b, a, spacing)
    assert there.dice == back.dice
    assert there.hd95_mm == pytest.approx(back.hd95_mm, rel=1e-6)
    assert there.assd_mm == pytest.approx(back.assd_mm, rel=1e-6)
    assert (there.volume_ml, there.reference_volume_ml) == (
        back.reference_volume_ml,
        back.volume_ml,
    )
    assert there.hd95_mm <= measure(a, np.zeros_like(a), spacing).hd95_mm


@settings(max_examples=25, deadline=None)
@given(two_masks(), SPACINGS)
def test_perfect_prediction(masks, spacing):
    m = measure(masks[0], masks[0], spacing)
    assert (m.dice, m.hd95_mm, m.assd_mm) == (1.0, 0.0, 0.0)


def test_shifted_cubes():
    a, b = np.zeros((2, 20, 20, 20), bool)
    a[4:9, 4:9, 4:9] = True
    b[7:12, 4:9, 4:9] = True  # 3 voxels further along X, whose voxels are 2 mm
    m = measure(a, b, (2.0, 1.0, 1.0))
    assert m.dice == pytest.approx(2 * 2 * 25 / 250)
    # From the far face, 25 of the 98 surface voxels, the nearest surface is 3 voxels away.
    assert m.hd95_mm == pytest.approx(6.0)
    assert m.volume_ml == m.reference_volume_ml == pytest.approx(125 * 2 / 1000)


def test_shifted_plates():
    a, b = np.zeros((2, 10, 6, 6), bool)
    a[2], b[5] = True, True
    m = measure(a, b, (1.5, 1.0, 1.0))
    assert (m.dice, m.hd95_mm, m.assd_mm) == pytest.approx((0.0, 4.5, 4.5))


TOLERANCES = st.floats(0.1, 20.0)


@settings(max_examples=30, deadline=None)
@given(two_masks(), SPACINGS, TOLERANCES, st.floats(0.1, 10.0))
def test_nsd_equals_brute_force_and_knows_no_order_and_no_unit(masks, spacing, tolerance, factor):
    expected = brute_nsd(*masks, spacing, tolerance)
    a, b = masks
    found = measure(a, b, spacing, nsd_tolerance_mm=tolerance).nsd
    assert found == pytest.approx(expected, abs=1e-12)
    assert measure(b, a, spacing, nsd_tolerance_mm=tolerance).nsd == found
    scaled = tuple(factor * mm for mm in spacing)
    assert measure(a, b, scaled, nsd_tolerance_mm=factor * tolerance).nsd == found


def test_nsd_of_shifted_plates_turns_at_their_distance():
    a, b = np.zeros((2, 10, 6, 6), bool)
    a[2], b[5] = True, True
    for tolerance, expected in ((4.49, 0.0), (4.5, 1.0), (4.51, 1.0)):
        assert measure(a, b, (1.5, 1.0, 1.0), nsd_tolerance_mm=tolerance).nsd == expected
    assert measure(a, b, (0.5, 1.0, 1.0)).nsd == 1.0  # 2 mm, unless another is given
    assert measure(a, b, (1.0, 1.0, 1.0)).nsd == 0.0


@pytest.mark.parametrize(("planes", "expected"), [(2, -0.5), (4, 0.0), (5, 0.25), (0, -1.0)])
def test_rvd_has_the_sign_of_what_is_too_much(planes, expected):
    prediction, reference = np.zeros((2, 8, 3, 3), bool)
    prediction[:planes], reference[3:7] = True, True
    assert measure(prediction, reference, (1.5, 1.0, 3.0)).rvd == pytest.approx(expected)


def test_absent_from_both_is_not_measured():
    m = measure(*np.zeros((2, 3, 4, 5), bool), (1.0, 1.0, 1.0))
    assert np.isnan([m.dice, m.hd95_mm, m.assd_mm, m.nsd, m.rvd]).all()
    assert m.volume_ml == m.reference_volume_ml == 0.0


@pytest.mark.parametrize("missed", [True, False])
def test_absent_from_one_is_the_worst_possible(missed):
    organ, empty = np.zeros((2, 3, 4, 12), bool)
    organ[1, 1, 1] = True
    m = measure(empty, organ, (1.0, 1.0, 1.0)) if missed else measure(organ, empty, (1.0, 1.0, 1.0))
    assert (m.dice, m.hd95_mm, m.assd_mm, m.nsd) == (0.0, 13.0, 13.0, 0.0)
    assert m.rvd == -1.0 if missed else math.isnan(m.rvd)


def test_classes_are_measured_apart():
    prediction = np.zeros((6, 6, 6), np.int16)
    prediction[0], prediction[3] = 1, 2
    reference = prediction.copy()
    reference[3] = 0
    reference[5] = 2
    rv, lv = segmentation_metrics(prediction, reference, (1.0, 1.0, 2.0), ["RV", "LV"])
    assert (rv.name, rv.dice, rv.volume_ml) == ("RV", 1.0, pytest.approx(0.072))
    assert (lv.name, lv.dice, lv.hd95_mm) == ("LV", 0.0, 2.0)


def test_nothing_is_warned_of():
    cube = np.ones((3, 3, 3), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        measure(cube, cube, (1.0, 1.0, 1.0))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="3-D"):
        segmentation_metrics(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), (1.0, 1.0, 1.0), ["organ"])
