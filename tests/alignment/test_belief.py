"""The images are believed where they bring alike slices nearer than the scan does."""

import math

import numpy as np
import pytest

from poscon.alignment.align import Alignment
from poscon.alignment.belief import FEWEST, NEAREST, Believed, believe

STEP = 5.0


def found(ends: np.ndarray, directions: np.ndarray | None = None) -> Alignment:
    n = len(ends)
    ones = np.ones(n)
    return Alignment(ends, ones, ones if directions is None else directions, ones, ones > 0)


def believed(
    components: list[np.ndarray],
    depths: list[np.ndarray],
    subjects: list[str],
    said: Alignment,
    files: list[str] | None = None,
) -> Believed:
    informative = [np.ones(len(x), bool) for x in components]
    files = files or [str(i) for i in range(len(components))]
    return believe(components, informative, depths, subjects, files, said)


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
    """Components of eight volumes that are parts of one body, depths, and their true ends."""
    generator = np.random.default_rng(3)
    body = generator.normal(size=(80, 6)).cumsum(axis=0)
    firsts = np.array([0, 12, 25, 40, 5, 30, 18, 50])
    lengths = np.array([30, 25, 20, 40, 35, 22, 28, 24])
    volumes = [
        body[a : a + n] + generator.normal(scale=0.3, size=(n, 6))
        for a, n in zip(firsts, lengths, strict=True)
    ]
    depths = [STEP * np.arange(n) for n in lengths]
    return volumes, depths, STEP * np.stack([firsts, firsts + lengths - 1], axis=1)


SUBJECTS = list("abcdefgh")


def test_distance_of_alike_slices_is_what_its_definition_says(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    volumes, depths = [*volumes, volumes[0] + 0.1], [*depths, depths[0]]
    subjects, ends = [*SUBJECTS, "a"], np.concatenate([ends, ends[:1]])
    wrong = 3 * ends[::-1]
    result = believed(volumes, depths, subjects, found(wrong))
    assert result.source == "scan"
    assert result.apart is not None
    by_images = [np.linspace(*at, len(d)) for at, d in zip(wrong, depths, strict=True)]
    extent = float(np.median([depth[-1] + STEP for depth in depths]))
    in_scan = [extent * ((np.arange(len(d)) + 1) / len(d) - 0.5) for d in depths]
    in_scan = [x if s > 0 else x[::-1] for x, s in zip(in_scan, result.directions, strict=True)]
    assert result.apart["images"] == pytest.approx(slowly(volumes, by_images, subjects) - STEP)
    assert result.apart["scan"] == pytest.approx(slowly(volumes, in_scan, subjects) - STEP)


def test_the_true_places_of_cut_volumes_are_believed(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    result = believed(volumes, depths, SUBJECTS, found(ends))
    assert result.source == "images"
    np.testing.assert_array_equal(result.ends, ends)
    assert result.determined.all()


def test_of_few_subjects_the_images_are_not_believed(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    few = SUBJECTS[: FEWEST - 1] + SUBJECTS[:1]  # two volumes of one subject
    result = believed(volumes, depths, few, found(ends))
    assert result.source == "scan"
    assert result.apart is None


def test_wrong_places_are_not_believed(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, ends = cut
    result = believed(volumes, depths, SUBJECTS, found(3 * ends[::-1]))
    assert result.source == "scan"
    assert not result.determined.any()
    extent = np.median([depth[-1] + STEP for depth in depths])
    assert result.ends.max(axis=1) == pytest.approx(extent / 2)  # of every one the same


def test_a_small_gain_is_not_believed() -> None:
    generator = np.random.default_rng(4)
    body = generator.normal(size=(63, 6)).cumsum(axis=0)
    firsts = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    volumes = [body[at : at + 60] + generator.normal(scale=2, size=(60, 6)) for at in firsts]
    ends = STEP * np.stack([firsts, firsts + 59], axis=1)
    result = believed(volumes, [STEP * np.arange(60)] * 8, SUBJECTS, found(ends))
    assert result.apart is not None
    assert 0.7 < result.apart["images"] / result.apart["scan"] < 1
    assert result.source == "scan"


def whole(n: int, scale: float = 0.3) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    body = generator.normal(size=(30, 6)).cumsum(axis=0)
    return [body + generator.normal(scale=scale, size=body.shape) for _ in range(n)]


def nowhere(n: int) -> Alignment:
    """Places that are wrong, so that those in the scan are believed; and wrong directions."""
    generator = np.random.default_rng(9)
    directions = np.where(generator.random(n) < 0.3, -1.0, 1.0)
    return found(generator.normal(scale=200, size=(n, 2)), directions)


@pytest.mark.parametrize("n", [3, 8, 60])
def test_of_whole_volumes_those_that_run_the_other_way_are_turned(n: int) -> None:
    volumes = whole(n)
    volumes[2] = volumes[2][::-1]
    names = [f"p{i}" for i in range(n)]
    result = believed(volumes, [STEP * np.arange(30)] * n, names, nowhere(n))
    assert result.source == "scan"
    assert np.flatnonzero(result.directions < 0).tolist() == [2]
    assert np.flatnonzero(result.ends[:, 0] > result.ends[:, 1]).tolist() == [2]
    assert result.clearness.min() > 0.5


def test_a_direction_that_is_not_clear_is_left() -> None:
    directions, clearness = [], []
    for seed in range(12):
        volumes = whole(8)
        volumes[3] = volumes[3][np.random.default_rng(seed).permutation(30)]
        names = [f"p{i}" for i in range(8)]
        result = believed(volumes, [STEP * np.arange(30)] * 8, names, nowhere(8))
        directions.append(result.directions[3])
        clearness.append(result.clearness[3])
        assert (np.delete(result.directions, 3) == 1).all()
    assert all(d == 1 for d, clear in zip(directions, clearness, strict=True) if clear < 0.15)
    assert -1 in directions
    assert min(clearness) < 0.15


def test_nothing_is_turned_by_the_scan_where_scans_are_cut(
    cut: tuple[list[np.ndarray], list[np.ndarray], np.ndarray],
) -> None:
    volumes, depths, _ = cut
    result = believed(volumes, depths, SUBJECTS, nowhere(8))
    assert result.source == "scan"
    assert np.median(result.clearness) < 0.4
    assert (result.directions == 1).all()


def test_frames_of_one_file_keep_one_direction() -> None:
    volumes = whole(8)
    volumes[0] = volumes[0][::-1]
    volumes[1] = np.random.default_rng(6).normal(scale=0.01, size=(30, 6))  # it says nothing
    files = ["cine", "cine", *"cdefgh"]
    result = believed(volumes, [STEP * np.arange(30)] * 8, files, nowhere(8), files)
    assert result.directions.tolist() == [-1, -1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 30, 2], [40, 1, 1], [1] * 9])
def test_volumes_of_a_slice_have_finite_places(lengths: list[int]) -> None:
    volumes = [np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate(lengths)]
    depths = [STEP * np.arange(n) for n in lengths]
    ends = np.array([(0.0, depth[-1]) for depth in depths])
    names = [str(i) for i in range(len(lengths))]
    result = believed(volumes, depths, names, found(ends))
    assert np.isfinite(result.ends).all()
    assert np.isfinite(result.clearness).all()


def test_slices_that_show_nothing_do_not_count() -> None:
    volumes, depths = whole(8), [STEP * np.arange(30)] * 8
    names = [f"p{i}" for i in range(8)]
    plain = believed(volumes, depths, names, nowhere(8))
    blank = [np.concatenate([x, np.zeros((10, 6))]) for x in volumes]
    shown = [np.arange(40) < 30] * 8
    longer = [STEP * np.arange(40)] * 8
    result = believe(blank, shown, longer, names, names, nowhere(8))
    assert plain.apart is not None
    assert result.apart is not None
    # the same slices, on an axis that is stretched to 40 slices in place of 30
    assert result.apart["scan"] == pytest.approx(plain.apart["scan"])
    assert (result.directions == 1).all()


def test_of_many_volumes_a_sample_is_looked_at_which_has_several_subjects() -> None:
    generator = np.random.default_rng(8)
    body = generator.normal(size=(60, 4)).cumsum(axis=0)
    firsts = generator.integers(0, 40, 260)
    volumes = [body[a : a + 20] for a in firsts]
    depths = [STEP * np.arange(20)] * 260
    names = [str(i) for i in range(260)]
    ends = STEP * np.stack([firsts, firsts + 19], axis=1)
    result = believed(volumes, depths, names, found(ends))
    assert result.source == "images"
    assert result.apart is not None
    assert result.apart["images"] == pytest.approx(0, abs=0.5)
    one = ["a"] * 260
    one[1:4], one[5:7], one[8:10] = "bcd", "ef", "gh"
    assert believed(volumes, depths, one, found(ends)).source == "images"
    two = ["a", "b", *["a"] * 258]  # an even sample has no volume of b
    assert believed(volumes, depths, two, found(ends)).clearness.max() > 0
