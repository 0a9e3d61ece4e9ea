"""Volumes of two parts of the body are two groups; those of one part are one."""

import numpy as np

from poscon.alignment.groups import chamfer, find_groups


def walk(n_slices: int, body: int, patient: int) -> np.ndarray:
    path = 5 * np.random.default_rng(body).normal(size=(40, 6)).cumsum(axis=0)
    first = 3 * patient % (40 - n_slices)
    noise = np.random.default_rng(1000 + patient).normal(scale=0.5, size=(n_slices, 6))
    return np.asarray(path[first : first + n_slices] + noise)


def test_two_bodies_are_two_groups() -> None:
    volumes = [walk(20, 1, i) for i in range(12)] + [walk(20, 2, i) for i in range(8)]
    found = find_groups(volumes, [str(i) for i in range(20)])
    assert found is not None
    assert [group.tolist() for group in found] == [list(range(12)), list(range(12, 20))]


def test_one_body_is_one_group() -> None:
    volumes = [walk(20, 1, i) for i in range(20)]
    assert find_groups(volumes, [str(i) for i in range(20)]) is None


def test_few_volumes_are_one_group() -> None:
    assert find_groups([walk(20, i, i) for i in range(4)], list("abcd")) is None


def test_a_part_of_a_volume_is_near_to_the_whole() -> None:
    whole = np.random.default_rng(0).normal(size=(12, 3))
    assert chamfer(whole[3:6], whole) == chamfer(whole, whole[3:6])
    assert abs(chamfer(whole[3:6], whole)) < 1e-12
