"""Statistics for comparisons of a few dozen patients: intervals and paired tests.

The unit is the subject. The frames and repeated runs of a subject are averaged or kept together,
because they are not independent.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats when it is first used: that takes a second
from numpy.typing import ArrayLike

from poscon.errors import PosconError

EQUAL = 1e-12
"""A difference of two means of a measure that is rounding."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean.

    Without variation, both ends are the mean. One subject alone says nothing: (-inf, inf).
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(values: ArrayLike, subjects: Sequence[Hashable] | None = None) -> Interval:
    """95 % confidence interval of a mean over subjects, by Student's t.

    With ``subjects``, a subject may have several values. The mean is over values; its standard
    error is that of a ratio of sums over subjects (Cochran 1977, Sampling Techniques, Ch. 6).
    With n subjects, x_i the sum and m_i the number of the values of subject i, and M = sum m_i,

        mean +- t_{0.975, n-1} / M * sqrt(n / (n - 1) * sum_i (x_i - m_i mean)^2).

    Args:
        values: (n,), finite.
        subjects: (n,), the subject of each value. None: each value has its own subject.

    Raises:
        PosconError: there is no value, or one is not finite.
        ValueError: the numbers of values and subjects differ.
    """
    values = _finite(values)
    names = list(range(len(values))) if subjects is None else list(subjects)
    if len(names) != len(values):
        raise ValueError(f"{len(names)} subjects for {len(values)} values")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    owner = np.array([number[name] for name in names])
    n = len(number)
    if n == 1:
        return Interval(-np.inf, np.inf)
    mean = float(values.mean())
    apart = np.bincount(owner, values - mean)
    error = np.sqrt(n / (n - 1) * (apart**2).sum()) / len(values)
    half = float(scipy.stats.t.ppf(0.975, n - 1) * error)
    return Interval(mean - half, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method (1979, Scand. J. Stat. 6:65).

    With p_(1) <= ... <= p_(m), the k-th becomes max over i <= k of min(1, (m - i + 1) p_(i)).
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted.tolist()


@dataclass(frozen=True)
class Difference:
    """A method against a baseline on the same subjects.

    Attributes:
        mean: mean of the differences, method minus baseline.
        interval: 95 % interval of that mean over subjects, by Student's t. It says what other
            subjects would show with the same trainings, and so does p.
        p: two-sided Wilcoxon signed-rank p-value, Holm-adjusted over the methods compared.
        wins, losses: number of subjects on which the method is greater, or less.
        subjects: number of subjects.
        trainings: the mean difference in each pair of trainings (one for each fold and draw), or
            None if trainings are not distinguished.
    """

    mean: float
    interval: Interval
    p: float
    wins: int
    losses: int
    subjects: int
    trainings: tuple[float, ...] | None = None

    @property
    def of_trainings(self) -> Interval | None:
        """95 % interval of the mean over trainings, by Student's t; None for fewer than two."""
        if self.trainings is None or len(self.trainings) < 2:
            return None
        return mean_interval(self.trainings)

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is distinguishable from 0.

        The test over subjects (at 0.05) and the interval over subjects must exclude 0. If trainings
        are distinguished, their interval must exclude 0 too. One training alone has no interval.
        """
        by_subjects = self.p < 0.05 and 0 not in self.interval
        if self.trainings is None:
            return by_subjects
        return by_subjects and self.of_trainings is not None and 0 not in self.of_trainings


def differences(
    baseline: Mapping[str, float],
    methods: Mapping[str, Mapping[str, float]],
) -> dict[str, Difference]:
    """Compare methods with one baseline, subject by subject.

    Args:
        baseline: one value per subject, such as its mean Dice over frames, classes and draws.
        methods: one value per subject for each method, by the name of the method.

    Raises:
        PosconError: a method has other subjects than the baseline, or a value is not finite.
    """
    found: dict[str, tuple[np.ndarray, float]] = {}
    for name, values in methods.items():
        if values.keys() != baseline.keys():
            odd = values.keys() ^ baseline.keys()
            raise PosconError(
                f"{name}: not on the subjects of the baseline ({len(odd)} only in one of them: "
                f"{', '.join(sorted(map(str, odd))[:3])}); compare on the same subjects"
            )
        apart = _finite([values[subject] - baseline[subject] for subject in baseline])
        apart[np.abs(apart) < EQUAL] = 0
        p = scipy.stats.wilcoxon(apart).pvalue if apart.any() else 1.0
        found[name] = (apart, float(p))
    adjusted = holm([p for _, p in found.values()])
    return {
        name: Difference(
            mean=float(apart.mean()),
            interval=mean_interval(apart),
            p=p,
            wins=int((apart > 0).sum()),
            losses=int((apart < 0).sum()),
            subjects=len(apart),
        )
        for (name, (apart, _)), p in zip(found.items(), adjusted, strict=True)
    }


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float).ravel()
    if not len(array):
        raise PosconError("no value to make a mean of")
    if not np.isfinite(array).all():
        raise PosconError("a value is not finite; leave out what was not measured")
    return array
