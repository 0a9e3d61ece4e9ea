"""Which volumes are compared with which."""

import numpy as np

from poscon.alignment.pairs import ALL_UP_TO, PARTNERS, choose_partners


def test_few_volumes_are_all_compared_and_frames_of_a_subject_are_not() -> None:
    pairs = choose_partners(["a", "a", "b", "c"], np.random.default_rng(0))
    assert pairs == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_of_many_volumes_each_has_partners_and_the_seed_decides_which() -> None:
    subjects = [str(i) for i in range(ALL_UP_TO + 50)]
    pairs = choose_partners(subjects, np.random.default_rng(1))
    counts = np.bincount(np.ravel(pairs), minlength=len(subjects))
    assert counts.min() >= PARTNERS - 1
    assert len(pairs) < len(subjects) * PARTNERS
    assert pairs == choose_partners(subjects, np.random.default_rng(1))
    assert pairs != choose_partners(subjects, np.random.default_rng(2))
