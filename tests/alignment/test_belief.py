"""The images are believed where they bring alike slices nearer than the scan does."""

import math

import numpy as np
import pytest

from poscon.alignment.align import Alignment
from poscon.alignment.belief import NEAREST, believe

STEP = 5.0


def found(ends: np.ndarray, directions: np.ndarray | None = None) -> Alignment:
    n = len(ends)
    ones = np.ones(n)
    return Alignment(ends, ones, ones if directions is None else directions, ones, ones > 0)


def slowly(
    components: list[np.ndarray], coordinates: list[np.ndarray], subjects: list[str]
) -> float:
    """The distance of alike slices, as its definition says, slice by slice."""
    logarithms = []
    for i, mine in enumerate(components):
        for n, slice_ in enumerate(mine):
            others = sorted(
                (float(((slice_ - theirs[m]) ** 2).sum()), coordinates[j][m])
                for j, theirs in enumerate(components)
                if subjects[j] != subjects[i]
                for m in range(len(theirs))
            )[:NEAREST]
            logarithms.append(
                sum(math.log(abs(coordinates[i][n] - at) + STEP) for _, at in others) / len(others)
            )
    return math.exp(sum(logarithms) / len(logarithms))


@pytest.fixture
def cut() -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Components of four volumes that are parts of one body, depths, and their true ends."""
    generator = np.random.default_rng(3)
    body = generator.normal(size=(80, 6)).cumsum(axis=0)
    firsts, lengths = np.array([0, 12, 25, 40]), np.array([30, 25, 20, 40])
    volumes = [
        body[a : a + n] + generator.normal(scale=0.3, size=(n, 6))
        for a, n in zip(firsts, lengths, strict=True)
    ]
    depths = [STEP * np.arange(n) for n in lengths]
    return volumes, depths, STEP * np.stack([firsts, firsts + lengths - 1], axis=1)


def test_distance_of_alike_slices_is_what_its_definition_says(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    subjects = ["a", "b", "b", "c"]
    believed = believe(volumes, depths, subjects, list("wxyz"), found(ends))
    by_images = [at[0] + depth for at, depth in zip(ends, depths, strict=True)]
    extent = float(np.median([depth[-1] + STEP for depth in depths]))
    in_scan = [extent * ((np.arange(len(d)) + 1) / len(d) - 0.5) for d in depths]
    assert believed.apart["images"] == pytest.approx(slowly(volumes, by_images, subjects))
    assert believed.apart["scan"] == pytest.approx(slowly(volumes, in_scan, subjects))


def test_the_true_places_of_cut_volumes_are_believed(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    believed = believe(volumes, depths, list("abcd"), list("wxyz"), found(ends))
    assert believed.source == "images"
    np.testing.assert_array_equal(believed.ends, ends)
    assert believed.determined.all()


def test_wrong_places_are_not_believed(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    believed = believe(volumes, depths, list("abcd"), list("wxyz"), found(ends[::-1]))
    assert believed.source == "scan"
    assert not believed.determined.any()
    assert believed.ends[:, 1] == pytest.approx(believed.ends[0, 1])  # all end at one place
    assert (believed.ends[:, 0] < believed.ends[:, 1]).all()


def test_a_small_gain_is_not_believed() -> None:
    generator = np.random.default_rng(4)
    body = generator.normal(size=(63, 6)).cumsum(axis=0)
    firsts = np.array([0, 1, 2, 3])
    volumes = [body[at : at + 60] + generator.normal(scale=2, size=(60, 6)) for at in firsts]
    ends = STEP * np.stack([firsts, firsts + 59], axis=1)
    depths = [STEP * np.arange(60)] * 4
    believed = believe(volumes, depths, list("abcd"), list("wxyz"), found(ends))
    assert 0.9 < believed.apart["images"] / believed.apart["scan"] < 1
    assert believed.source == "scan"


def test_only_volumes_whose_slices_come_nearer_are_turned() -> None:
    generator = np.random.default_rng(5)
    body = generator.normal(size=(30, 6)).cumsum(axis=0)
    volumes = [body + generator.normal(scale=0.3, size=body.shape) for _ in range(8)]
    volumes[2] = volumes[2][::-1]
    depths = [STEP * np.arange(30)] * 8
    directions = np.ones(8)
    directions[[2, 5]] = -1  # the fifth runs like the others
    said = found(generator.normal(scale=200, size=(8, 2)), directions)
    names = [f"p{i}" for i in range(8)]
    believed = believe(volumes, depths, names, names, said)
    assert believed.source == "scan"
    assert np.flatnonzero(believed.directions < 0).tolist() == [2]
    assert np.flatnonzero(believed.ends[:, 0] > believed.ends[:, 1]).tolist() == [2]


def test_places_are_turned_if_that_brings_all_volumes_nearer() -> None:
    generator = np.random.default_rng(5)
    body = generator.normal(size=(30, 6)).cumsum(axis=0)
    volumes = [body + generator.normal(scale=0.3, size=body.shape) for _ in range(80)]
    volumes[2] = volumes[2][::-1]
    directions = np.ones(80)
    directions[2] = -1
    said = found(generator.normal(scale=200, size=(80, 2)), directions)
    names = [f"p{i}" for i in range(80)]
    believed = believe(volumes, [STEP * np.arange(30)] * 80, names, names, said)
    assert np.flatnonzero(believed.directions < 0).tolist() == [2]
    assert (believed.ends[:, 0] < believed.ends[:, 1]).all()  # one of 80 changes too little


def test_frames_of_one_file_keep_one_direction() -> None:
    generator = np.random.default_rng(6)
    body = generator.normal(size=(30, 6)).cumsum(axis=0)
    volumes = [body + generator.normal(scale=0.3, size=body.shape) for _ in range(8)]
    volumes[0] = volumes[0][::-1]
    volumes[1] = generator.normal(scale=0.01, size=body.shape)  # a frame that says nothing
    files = ["cine", "cine", *"cdefgh"]
    directions = np.array([-1.0, -1, 1, 1, 1, 1, 1, 1])
    said = found(generator.normal(scale=200, size=(8, 2)), directions)
    believed = believe(volumes, [STEP * np.arange(30)] * 8, files, files, said)
    assert believed.directions.tolist() == directions.tolist()


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 30, 2], [40, 1, 1]])
def test_volumes_of_a_slice_have_finite_places(lengths: list[int]) -> None:
    volumes = [np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate(lengths)]
    depths = [STEP * np.arange(n) for n in lengths]
    ends = np.array([(0.0, depth[-1]) for depth in depths])
    believed = believe(volumes, depths, list("abc"), list("xyz"), found(ends))
    assert np.isfinite(believed.ends).all()
    assert all(np.isfinite(value) for value in believed.apart.values())


def test_of_many_volumes_a_sample_is_looked_at() -> None:
    generator = np.random.default_rng(8)
    body = generator.normal(size=(60, 4)).cumsum(axis=0)
    firsts = generator.integers(0, 40, 260)
    volumes = [body[a : a + 20] for a in firsts]
    depths = [STEP * np.arange(20)] * 260
    names = [str(i) for i in range(260)]
    ends = STEP * np.stack([firsts, firsts + 19], axis=1)
    believed = believe(volumes, depths, names, names, found(ends))
    assert believed.source == "images"
    assert believed.apart["images"] == pytest.approx(STEP, rel=0.1)
