"""The slices of a store's cases as a pool to choose from, and the pool of their subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from poscon.positions import POSITIONS, PositionName
from poscon.store.manifest import CaseRecord
from poscon.suggestion.base import Pool

LEVELS = 4
"""Parts of equal length of the stack, whose mean features describe a subject."""


@dataclass(frozen=True)
class Slices:
    """All slices of some cases, one row each: case after case, from the first slice to the last.

    Attributes:
        cases: the cases.
        case_of: (N,) number of the case of each slice.
        slice_of: (N,) number of the slice in its case.
        subject_names: names of the subjects, sorted.
        subject_of: (N,) number of the subject.
        position: the kind of their positions.
        positions: (N,) position of each slice, in the unit of its kind.
        middles: (N,) where the middle of each slice lies among all, from 0 to 1. With relative
            positions that is (i + 0.5) / n for slice i of n. With others it is the share of all
            slices that lie before it.
        edges: (N, 2) where both ends of the volume of each slice lie, on the scale of ``middles``;
            None: all volumes reach from 0 to 1.
        labelled: (N,) bool.
    """

    cases: tuple[CaseRecord, ...]
    case_of: np.ndarray
    slice_of: np.ndarray
    subject_names: tuple[str, ...]
    subject_of: np.ndarray
    position: PositionName
    positions: np.ndarray
    middles: np.ndarray
    edges: np.ndarray | None
    labelled: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[CaseRecord], position: PositionName = "relative") -> Self:
        """The slices of cases, of one case at least.

        Args:
            cases: the cases.
            position: the kind of their positions.

        Raises:
            PosconError: learned positions are asked for, and a case has none.
        """
        counts = [case.shape[0] for case in cases]
        case_of = np.repeat(np.arange(len(cases)), counts)
        slice_of = np.concatenate([np.arange(count) for count in counts])
        names, subjects = np.unique([case.subject for case in cases], return_inverse=True)
        positions = [POSITIONS[position].of_slices(case) for case in cases]
        if position == "relative":
            middles, edges = (slice_of + 0.5) / np.array(counts)[case_of], None
        else:
            middles, ends = _shares(positions)
            edges = ends[case_of]
        labelled = [np.isin(np.arange(c.shape[0]), c.labelled_slice_numbers) for c in cases]
        return cls(
            cases=tuple(cases),
            case_of=case_of,
            slice_of=slice_of,
            subject_names=tuple(str(name) for name in names),
            subject_of=subjects[case_of],
            position=position,
            positions=np.concatenate(positions),
            middles=middles,
            edges=edges,
            labelled=np.concatenate(labelled),
        )

    def pool(self, features: np.ndarray | None, uncertainty: np.ndarray | None) -> Pool:
        """A pool with a row for each slice.

        Args:
            features: (N, D) features of each slice, or None.
            uncertainty: (N,), or None.
        """
        embeddings = None if features is None else unit(features)
        return Pool(
            self.subject_of, self.labelled, self.middles, embeddings, uncertainty, self.edges
        )

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


def _shares(positions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where slices lie among all slices of all volumes.

    Args:
        positions: (slices,) of each of V volumes, at equal steps, rising or falling.

    Returns:
        For all slices, volume after volume, the share of all slices that lie before them; slices at
        the same position have the same share. And (V, 2) the same for both ends of each volume,
        half a step beyond its first and last slice.
    """
    ordered = np.sort(np.concatenate(positions))

    def share(at: np.ndarray) -> np.ndarray:
        before, after = (np.searchsorted(ordered, at, side) for side in ("left", "right"))
        return (before + after) / (2 * len(ordered))

    ends = []
    for at in positions:
        half = abs(at[-1] - at[0]) / max(1, len(at) - 1) / 2
        ends.append((at.min() - half, at.max() + half))
    return share(np.concatenate(positions)), share(np.array(ends))


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
