"""Volumes that show parts of one body are put where they belong, whichever way they run."""

import numpy as np
import pytest

from poscon.alignment.align import Alignment, align

BODY_MM, SPACING = 400, 5.0
BODY = np.random.default_rng(7).normal(size=(BODY_MM + 1, 24)).cumsum(axis=0)
"""What a slice looks like at every mm of the body: a random walk, so that neighbours are alike."""


def volume(first: float, n_slices: int, patient: int, scale: float = 1.0) -> np.ndarray:
    """Slices of a patient from a place of the body upwards, with noise and a look of its own."""
    generator = np.random.default_rng(patient)
    at = first + scale * SPACING * np.arange(n_slices)
    clean = np.stack([np.interp(at, np.arange(BODY_MM + 1), row) for row in BODY.T], axis=1)
    own = generator.normal(scale=2.0, size=24)
    return np.asarray(clean + own + generator.normal(scale=1.0, size=clean.shape))


def aligned(volumes: list[np.ndarray]) -> Alignment:
    depths = [SPACING * np.arange(len(x)) for x in volumes]
    each = [str(i) for i in range(len(volumes))]
    return align(volumes, depths, each, each, seed=0)


@pytest.fixture(scope="module")
def cut() -> tuple[np.ndarray, list[np.ndarray]]:
    """The true first coordinate of 20 volumes of 20 to 50 slices, and the volumes."""
    generator = np.random.default_rng(5)
    lengths = generator.integers(20, 51, 20)
    firsts = np.array([generator.uniform(0, BODY_MM - SPACING * (n - 1)) for n in lengths])
    pairs = enumerate(zip(firsts, lengths, strict=True))
    return firsts, [volume(first, int(n), 100 + i) for i, (first, n) in pairs]


def test_volumes_cut_anywhere_are_put_where_they_were_cut(
    cut: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    firsts, volumes = cut
    found = aligned(volumes)
    shift = found.ends[:, 0] - firsts
    assert np.abs(shift - np.median(shift)).max() < 4 * SPACING
    assert found.determined.all()
    assert (found.directions == 1).all()
    assert np.log(found.scales).mean() == pytest.approx(0, abs=1e-6)
    middles = [(first + last) / 2 for first, last in found.ends]
    assert np.std(np.array(middles) - np.median(middles)) > 10 * SPACING  # they were far apart


def test_volumes_that_run_the_other_way_are_found_and_placed(
    cut: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    firsts, volumes = cut
    turned = [3, 4, 9, 12]
    found = aligned([x[::-1] if i in turned else x for i, x in enumerate(volumes)])
    assert np.flatnonzero(found.directions < 0).tolist() == turned
    low = found.ends.min(axis=1)
    assert np.abs(low - firsts - np.median(low - firsts)).max() < 4 * SPACING
    assert (found.ends[turned, 0] > found.ends[turned, 1]).all()


def test_turning_all_volumes_turns_the_axis(cut: tuple[np.ndarray, list[np.ndarray]]) -> None:
    _, volumes = cut
    there, back = aligned(volumes), aligned([x[::-1] for x in volumes])
    assert (back.directions == 1).all()
    np.testing.assert_allclose(there.ends, -back.ends[:, ::-1], atol=4 * SPACING)


def test_the_order_of_the_volumes_does_not_matter(
    cut: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    _, volumes = cut
    order = np.random.default_rng(0).permutation(len(volumes))
    there, other = aligned(volumes), aligned([volumes[i] for i in order])
    np.testing.assert_allclose(there.ends[order], other.ends, atol=4 * SPACING)


def test_scale_of_a_patient_is_found() -> None:
    volumes = [volume(20, 60, i) for i in range(8)]
    volumes.append(volume(40, 45, 50, scale=1.15))
    found = aligned(volumes)
    # less than 1.15, because the prior of the scale draws it towards 1
    assert 1.04 < found.scales[-1] / np.median(found.scales[:-1]) < 1.2


def test_volumes_of_one_and_of_two_slices_are_placed_among_whole_ones() -> None:
    volumes = [volume(10 * i, 50, i) for i in range(8)]
    few = [volume(200, 1, 60), volume(150, 2, 61)]
    found = aligned([*volumes, *few])
    assert np.isfinite(found.ends).all()
    shift = np.median(found.ends[:8, 0] - 10 * np.arange(8))
    assert found.ends[8, 0] - shift == pytest.approx(200, abs=4 * SPACING)
    assert found.ends[8, 0] == found.ends[8, 1]
    assert not found.determined[8]  # of one slice all orders are the same
    assert found.ends[9, 0] - shift == pytest.approx(150, abs=4 * SPACING)


def test_two_frames_of_one_subject_have_nothing_to_be_compared_with() -> None:
    depths = [SPACING * np.arange(30)] * 2
    found = align([volume(0, 30, 1), volume(0, 30, 2)], depths, ["s", "s"], ["a", "b"])
    assert (found.directions == 1).all()
    assert np.isfinite(found.ends).all()


def test_slices_that_are_all_alike_determine_nothing() -> None:
    found = aligned([np.ones((9, 4)) for _ in range(5)])
    assert not found.determined.any()
    assert np.isfinite(found.ends).all()


def test_slices_in_no_order_are_not_determined(cut: tuple[np.ndarray, list[np.ndarray]]) -> None:
    _, volumes = cut
    shuffled = volumes[0][np.random.default_rng(1).permutation(len(volumes[0]))]
    assert not aligned([*volumes, shuffled]).determined[-1]


def test_volumes_of_one_subject_do_not_speak_for_each_other(
    cut: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    """Two frames that run the other way agree with each other, and are found all the same."""
    _, volumes = cut
    frames = [volumes[0][::-1], volumes[0][::-1] + 1e-3]
    every = [*frames, *volumes[1:]]
    depths = [SPACING * np.arange(len(x)) for x in every]
    subjects = ["s", "s", *map(str, range(len(volumes) - 1))]
    found = align(every, depths, subjects, [str(i) for i in range(len(every))])
    assert np.flatnonzero(found.directions < 0).tolist() == [0, 1]


def test_frames_of_one_file_run_the_same_way(cut: tuple[np.ndarray, list[np.ndarray]]) -> None:
    """Of three frames one was turned round, which no file can be: the other two decide."""
    _, volumes = cut
    frames = [volumes[0], volumes[0] + 1e-3, volumes[0][::-1]]
    every = [*frames, *volumes[1:]]
    depths = [SPACING * np.arange(len(x)) for x in every]
    rest = [str(i) for i in range(len(volumes) - 1)]
    subjects = ["s", "s", "s", *rest]
    alone = align(every, depths, subjects, [str(i) for i in range(len(every))])
    assert np.flatnonzero(alone.directions < 0).tolist() == [2]
    found = align(every, depths, subjects, ["cine", "cine", "cine", *rest])
    assert (found.directions == 1).all()
    assert len(set(found.clearness[:3])) == 1
    assert found.clearness[0] < alone.clearness[0]


def test_two_files_whose_frames_run_against_each_other() -> None:
    whole = volume(0, 40, 1)
    every = [whole, whole + 1e-3, volume(0, 40, 2)[::-1]]
    depths = [SPACING * np.arange(40)] * 3
    found = align(every, depths, ["a", "a", "b"], ["a", "a", "b"])
    assert found.directions.tolist() == [1, 1, -1]
