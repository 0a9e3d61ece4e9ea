"""The results of an evaluation: a row for each case and class, and their summary over cases."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from poscon.volumes.range_differences import RangeDifference, RangeSummary, summarise_ranges

MEASURES = ("dice", "hd95_mm", "assd_mm", "nsd", "rvd")


@dataclass(frozen=True)
class Row:
    """One class of one case. The measures are those of `poscon.metrics.ClassMetrics`.

    Attributes:
        case: the prediction's file name without suffix. A frame of a 4-D file has ``_frame01``,
            ``_frame02``, ... after it.
        subject: the person scanned if the references are a data set, else the file name again.
        class_name: the class.
        dice: Dice, 0 to 1, or NaN where there is nothing to measure.
        hd95_mm: 95th percentile of the surface distances in mm, or NaN.
        assd_mm: mean of the surface distances in mm, or NaN.
        nsd: normalised surface Dice, 0 to 1, or NaN.
        rvd: relative volume difference, or NaN where the reference lacks the class.
        volume_ml: volume in the prediction, in ml.
        reference_volume_ml: volume in the reference, in ml.
        spacing: voxel size in mm along the file's axes, with which all of this was measured.
        nsd_tolerance_mm: distance in mm up to which surfaces agree, for ``nsd``.
        range: first and last slice, in the prediction and in the reference.
        seen: roles that the scan had in the training of the model, see :mod:`poscon.leakage`.
    """

    case: str
    subject: str
    class_name: str
    dice: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    rvd: float
    volume_ml: float
    reference_volume_ml: float
    spacing: tuple[float, float, float]
    nsd_tolerance_mm: float
    range: RangeDifference
    seen: tuple[str, ...] = ()

    @property
    def missed(self) -> bool:
        return self.volume_ml == 0 and self.reference_volume_ml > 0


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over cases. They are NaN if there are too few cases."""

    mean: float
    std: float


@dataclass(frozen=True)
class Summary:
    """One class over all cases, or (``"mean"``) the mean over classes.

    Attributes:
        name: the class, or ``"mean"``.
        measured: number of cases in the means.
        missed: number of predictions that lack a class that the reference has.
        dice: Dice, 0 to 1.
        hd95_mm: 95th percentile of the surface distances in mm.
        assd_mm: mean of the surface distances in mm.
        nsd: normalised surface Dice, 0 to 1.
        rvd: relative volume difference, over the cases whose reference has the class.
    """

    name: str
    measured: int
    missed: int
    dice: Spread
    hd95_mm: Spread
    assd_mm: Spread
    nsd: Spread
    rvd: Spread


@dataclass(frozen=True)
class Coverage:
    """How much of a case its reference labels.

    Attributes:
        slices: how many slices there are.
        labelled_slices: how many of them have a labelled voxel.
        unlabelled_voxels: how many voxels are not labelled.
    """

    slices: int
    labelled_slices: int
    unlabelled_voxels: int


@dataclass(frozen=True)
class Counted:
    """What counted, as the references label it.

    Attributes:
        slices: how many slices have a labelled voxel.
        of_slices: how many slices there are, labelled or not.
        cases: how many cases these are of.
    """

    slices: int
    of_slices: int
    cases: int


@dataclass(frozen=True)
class Unlabelled:
    """What did not count, as the references do not label it.

    Attributes:
        voxels: how many.
        slices: how many slices have no other voxel.
        cases: how many cases have such voxels.
    """

    voxels: int
    slices: int
    cases: int


@dataclass(frozen=True)
class Evaluation:
    """The result of `poscon.evaluate`.

    Attributes:
        rows: one row for each case and class. Cases are in the order of their file names.
        classes: the foreground classes in the reference's order.
        unmatched: references for which a folder of predictions has no prediction.
        without_reference: predictions of a folder for which there is no reference.
        not_annotated: cases and frames that were left out because the reference labels nothing in
            them.
        failed: by case, what was wrong with a pair that could not be measured.
        coverage: by case, how much of it the reference labels.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    unmatched: tuple[str, ...] = ()
    without_reference: tuple[str, ...] = ()
    not_annotated: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)

    @property
    def counted(self) -> Counted:
        """The slices of the references that counted."""
        of_cases = self.coverage.values()
        return Counted(
            sum(case.labelled_slices for case in of_cases),
            sum(case.slices for case in of_cases),
            len(of_cases),
        )

    @property
    def unlabelled(self) -> Unlabelled:
        """The voxels of the references that did not count."""
        partly = [case for case in self.coverage.values() if case.unlabelled_voxels]
        return Unlabelled(
            sum(case.unlabelled_voxels for case in partly),
            sum(case.slices - case.labelled_slices for case in partly),
            len(partly),
        )

    def summary(self) -> list[Summary]:
        """Each class, then ``"mean"``, which is over the mean of each case's classes."""
        cases = list(dict.fromkeys(row.case for row in self.rows))
        values = np.array([[getattr(row, m) for m in MEASURES] for row in self.rows], float)
        values = values.reshape(len(cases), len(self.classes), len(MEASURES))
        missed = np.array([row.missed for row in self.rows]).reshape(values.shape[:2])
        # Dice is NaN where nothing was measured; rvd is also NaN where the reference has nothing.
        some = values[~np.isnan(values[..., 0]).all(axis=1)]
        summaries = [
            _summary(name, values[:, i], int(missed[:, i].sum()))
            for i, name in enumerate(self.classes)
        ]
        return [*summaries, _summary("mean", _means(some), int(missed.sum()))]

    def range_summary(self) -> list[RangeSummary]:
        """The ranges of each class, then ``"all"``: those of all classes together."""
        of_class = [
            summarise_ranges(name, [row.range for row in self.rows if row.class_name == name])
            for name in self.classes
        ]
        return [*of_class, summarise_ranges("all", [row.range for row in self.rows])]


def _means(values: np.ndarray) -> np.ndarray:
    """The mean over classes of an array (cases, classes, measures), of what is not NaN."""
    known = ~np.isnan(values)
    number = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _summary(name: str, values: np.ndarray, missed: int) -> Summary:
    """Summarise an array (cases, measures). It is NaN where nothing was measured."""
    spreads = []
    for of_measure in values.T:
        known = of_measure[~np.isnan(of_measure)]
        mean = float(known.mean()) if len(known) else float("nan")
        std = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
        spreads.append(Spread(mean, std))
    return Summary(name, int((~np.isnan(values[:, 0])).sum()), missed, *spreads)
