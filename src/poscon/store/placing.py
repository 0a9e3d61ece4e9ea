"""Where the volumes of a store lie on one axis of the anatomy, by their images alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poscon.alignment.align import align
from poscon.alignment.belief import FEWEST as FEWEST_BELIEVED
from poscon.alignment.belief import Believed, believe
from poscon.alignment.likeness import compact
from poscon.alignment.thumbnails import thumbnails
from poscon.errors import PosconError
from poscon.progress import progress_bar
from poscon.seeds import stream
from poscon.store.manifest import AxisRecord, CaseRecord
from poscon.store.store import Store

FEWEST = 3
"""Subjects that it takes to find what they share."""


@dataclass(frozen=True)
class Placed:
    """Where cases lie on one axis.

    Attributes:
        axis: of each case by its id.
        components: (slices, K) features of each case, from its small pictures.
        believed: by what the cases are placed.
        alike: whether no slice says where it lies.
    """

    axis: dict[str, AxisRecord]
    components: list[np.ndarray]
    believed: Believed
    alike: bool

    @property
    def summary(self) -> str:
        """By what the cases are placed, and why."""
        apart = self.believed.apart
        if apart is None:
            subjects = f"of fewer than {FEWEST_BELIEVED} subjects they are not believed"
            why = "the images do not say where the volumes lie"
            why = f"{why}: {'slices are too alike' if self.alike else subjects}"
        else:
            by_images, by_scan = f"{apart['images']:.3g} mm", f"{apart['scan']:.3g} mm"
            if self.believed.source == "images":
                return (
                    f"slices that look alike usually lie {by_images} apart, and {by_scan} by their "
                    "position in the scan"
                )
            why = (
                "the images are not clearly better than the position in the scan: slices that look "
                f"alike usually lie {by_images} apart where the images put them, and {by_scan} by "
                "their position in the scan"
            )
        return f"{why}; so the positions are those in the scan, stretched to the median extent"


def place_cases(store: Store, cases: Sequence[CaseRecord], seed: int) -> Placed:
    """Place cases on an axis of their own, by their images where these say more than the scan.

    See :func:`poscon.alignment.align.align` and :func:`poscon.alignment.belief.believe`.

    Args:
        store: where their images are. It is not changed, and its other cases are not looked at.
        cases: the cases.
        seed: decides which volumes are compared, where there are more than a hundred.

    Raises:
        PosconError: fewer than three subjects.
    """
    subjects = [case.subject for case in cases]
    if len(set(subjects)) < FEWEST:
        raise PosconError(
            f"{store.path}: {len(set(subjects))} subject(s) are to be placed; to find what they "
            f"share takes at least {FEWEST}"
        )
    features = _features(store, cases)
    depths = [np.arange(case.shape[0]) * case.spacing[0] for case in cases]
    # frames of one file run the same way, if none of them was turned by itself
    files = [
        case.id if case.frame_index is None else f"{case.source} {case.geometry.flips}"
        for case in cases
    ]
    found = align(features, depths, subjects, files, stream(seed, "align"))
    components = compact(features)
    # a blank slice looks like every other blank one, wherever they lie
    informative = [np.asarray(x.any(axis=1)) for x in features]
    believed = believe(components, informative, depths, subjects, files, found)
    axis = _axis_records(cases, believed)
    return Placed(axis, components, believed, alike=not found.determined.any())


def _features(store: Store, cases: Sequence[CaseRecord]) -> list[np.ndarray]:
    """The small pictures of every case."""
    described = []
    with progress_bar() as progress:
        task = progress.add_task("placing volumes", total=len(cases), status="")
        for case in cases:
            described.append(thumbnails(store.image(case)))
            progress.advance(task)
    return described


def _axis_records(cases: Sequence[CaseRecord], believed: Believed) -> dict[str, AxisRecord]:
    """What the store keeps. Among volumes that are placed by their images, one that is not
    determined gets the ends that most have.
    """
    by_images = believed.source == "images"
    usual = np.zeros(2)
    if by_images:
        usual = np.median(np.sort(believed.ends[believed.determined], axis=1), axis=0)
    axis = {}
    for number, case in enumerate(cases):
        known = bool(believed.determined[number])
        against = bool(believed.directions[number] < 0)
        first, last = believed.ends[number]
        if by_images and not known:
            first, last = usual[::-1] if against else usual
        axis[case.id] = AxisRecord(
            first=round(float(first), 3),
            last=round(float(last), 3),
            against=against,
            clearness=round(float(believed.clearness[number]), 3),
            determined=known,
        )
    return axis
