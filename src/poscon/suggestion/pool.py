"""The slices of a store's cases as a pool to choose from, and the pool of their subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from poscon.store.store import CaseRecord
from poscon.suggestion.base import Pool

LEVELS = 4
"""Parts of equal length of the stack, whose mean features describe a subject."""


def labelled_slices(case: CaseRecord) -> np.ndarray:
    """Numbers of the slices that are labelled."""
    return case.labelled_slice_numbers


@dataclass(frozen=True)
class Slices:
    """All slices of some cases, one row each: case after case, from the first slice to the last.

    Attributes:
        cases: the cases.
        case_of: (N,) number of the case of each slice.
        slice_of: (N,) number of the slice in its case.
        subject_names: names of the subjects, sorted.
        subject_of: (N,) number of the subject.
        middles: (N,) relative position of the middle of each slice, (i + 0.5) / n.
        labelled: (N,) bool.
    """

    cases: tuple[CaseRecord, ...]
    case_of: np.ndarray
    slice_of: np.ndarray
    subject_names: tuple[str, ...]
    subject_of: np.ndarray
    middles: np.ndarray
    labelled: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[CaseRecord]) -> Self:
        """The slices of cases, of one case at least."""
        counts = [case.shape[0] for case in cases]
        case_of = np.repeat(np.arange(len(cases)), counts)
        slice_of = np.concatenate([np.arange(count) for count in counts])
        names, subjects = np.unique([case.subject for case in cases], return_inverse=True)
        labelled = [np.isin(np.arange(c.shape[0]), labelled_slices(c)) for c in cases]
        return cls(
            cases=tuple(cases),
            case_of=case_of,
            slice_of=slice_of,
            subject_names=tuple(str(name) for name in names),
            subject_of=subjects[case_of],
            middles=(slice_of + 0.5) / np.array(counts)[case_of],
            labelled=np.concatenate(labelled),
        )

    def pool(self, features: np.ndarray | None, uncertainty: np.ndarray | None) -> Pool:
        """A pool with a row for each slice.

        Args:
            features: (N, D) features of each slice, or None.
            uncertainty: (N,), or None.
        """
        embeddings = None if features is None else unit(features)
        return Pool(self.subject_of, self.labelled, self.middles, embeddings, uncertainty)

    def subject_pool(self, features: np.ndarray | None, uncertainty: np.ndarray | None) -> Pool:
        """A pool with a row for each subject.

        A subject with a labelled slice counts as labelled. Its uncertainty is the mean over its
        slices. For its embedding the stack is divided into :data:`LEVELS` parts of equal length.
        The mean features of the parts stand side by side. For a part without a slice the mean over
        the whole subject is taken.

        Args:
            features: (N, D) features of each slice, or None.
            uncertainty: (N,), or None.
        """
        n = len(self.subject_names)
        labelled = np.bincount(self.subject_of, weights=self.labelled, minlength=n) > 0
        embeddings = None
        if features is not None:
            means = _means(features, self.subject_of, n)
            level = np.minimum((self.middles * LEVELS).astype(int), LEVELS - 1)
            parts = _means(features, self.subject_of * LEVELS + level, n * LEVELS)
            parts = parts.reshape(n, LEVELS, -1)
            parts = np.where(np.isnan(parts), means[:, None], parts)
            embeddings = unit(parts.reshape(n, -1))
        if uncertainty is not None:
            uncertainty = _means(uncertainty[:, None], self.subject_of, n)[:, 0]
        return Pool(np.arange(n), labelled, None, embeddings, uncertainty)


def unit(features: np.ndarray) -> np.ndarray:
    """(N, D) features as float32 of length 1; features that are all 0 stay so."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


def _means(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """(n, D) mean of the rows of each group; NaN for a group without a row."""
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, group, values)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(group, minlength=n)[:, None]
