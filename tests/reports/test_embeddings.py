from pathlib import Path

import numpy as np

from poscon.reports.embeddings import embed
from poscon.store.store import Store


def test_slices_are_in_order_of_position_and_like_themselves(store: Path, pretrained: Path) -> None:
    opened = Store(store)
    found = embed(pretrained, opened, opened.cases, 32)
    n = sum(case.shape[0] for case in opened.cases)
    assert found.similarity.shape == (n, n)
    assert found.plane.shape == (n, 2)
    assert (np.diff(found.positions) >= 0).all()
    assert sorted(found.positions) == sorted(
        np.float32(p) for case in opened.cases for p in case.positions
    )
    np.testing.assert_allclose(np.diag(found.similarity), 1)
    np.testing.assert_allclose(found.similarity, found.similarity.T)
    assert 0 < found.explained <= 1


def test_one_case_a_subject_and_few_subjects(store: Path, pretrained: Path) -> None:
    opened = Store(store)
    twice = [opened.cases[0], *opened.cases[:2]]
    found = embed(pretrained, opened, twice, 32)
    assert len(found.positions) == sum(case.shape[0] for case in opened.cases[:2])
