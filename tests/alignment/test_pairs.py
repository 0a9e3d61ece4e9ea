"""Which volumes are compared with which."""

import numpy as np

from poscon.alignment.pairs import ALL_UP_TO, PARTNERS, choose_partners, compare, turn


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


def test_evidence_of_turned_volumes_is_that_of_a_new_comparison() -> None:
    generator = np.random.default_rng(3)
    volumes = [generator.normal(size=(n, 2)) for n in (4, 7, 5, 6)]
    wanted = choose_partners(["a", "b", "c", "d"], generator)
    signs = np.array([-1, 1, -1, 1])
    found = turn(compare(volumes, wanted), signs)
    expected = compare(
        [x[::-1] if s < 0 else x for x, s in zip(volumes, signs, strict=True)], wanted
    )
    assert found.evidence.keys() == expected.evidence.keys()
    for pair, evidence in expected.evidence.items():
        np.testing.assert_allclose(found.evidence[pair], evidence, atol=1e-12)
    for pair, evidence in expected.turned.items():
        np.testing.assert_allclose(found.turned[pair], evidence, atol=1e-12)
