"""The oddities of a store: a person should look at them before training on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from poscon.errors import PosconError
from poscon.progress import progress_bar
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store, labelled_voxels, slices_sha256
from poscon.volumes.case import IGNORE

DAMAGED = "damaged"
FEW_SLICES = 4  # fewer than this are few
FAR = 2.0  # times the median, or its inverse
ENOUGH = 5  # cases, below which nothing is called unusual among them
ALMOST_ALL = 0.9
OUTLIER = 5.0  # robust standard deviations (1.4826 MAD) of the log volume
LEAST_SPREAD = 0.1  # of the log volume: the robust standard deviation is taken as no smaller

SPACING_FROM: dict[Literal["layout", "user"], str] = {
    "layout": "the data set's layout",
    "user": "--source-spacing",
}

PROFILE_BINS = 20
LEAST_ASYMMETRY = 0.3  # share of a profile's variation: less says nothing of its direction
SHARED_DIRECTION = 0.75  # share of all scans' asymmetry along one line
CLEAR_DIRECTION = 0.5  # cosine between a scan's asymmetry and that line


@dataclass(frozen=True)
class Oddity:
    """Something a person should look at.

    Attributes:
        kind: a heading for all of the kind.
        case: its id, or None if it is about the store.
        text: what is odd, and what to do.
    """

    kind: str
    case: str | None
    text: str

    def __str__(self) -> str:
        return self.text if self.case is None else f"{self.case}: {self.text}"


def find_oddities(store: Store) -> tuple[Oddity, ...]:
    """Everything odd about a store, the most serious kind first. Reads all of its arrays.

    Cases whose arrays cannot be used are of the kind :data:`DAMAGED`.
    """
    damaged: list[Oddity] = []
    profiles: dict[str, np.ndarray] = {}
    whole: set[str] = set()  # cases of which every voxel is labelled
    with progress_bar() as progress:
        task = progress.add_task("reading", total=len(store.cases), status="")
        for case in store.cases:
            try:
                image = np.asarray(store.image(case))
                label = np.asarray(store.label(case)) if case.labelled else None
                if slices_sha256(image, label) != case.stored_sha256:
                    raise PosconError(
                        "its arrays are not those that were prepared (the hash differs); "
                        "prepare the store again"
                    )
            except PosconError as error:
                damaged.append(Oddity(DAMAGED, case.id, str(error)))
            else:
                if label is not None and not (label == IGNORE).any():
                    whole.add(case.id)
                    if label.any():
                        profiles[case.id] = _area_profile(label, len(store.class_names))
            progress.advance(task)
    return (*damaged, *_oddities(store, profiles, whole))


def _oddities(store: Store, profiles: dict[str, np.ndarray], whole: set[str]) -> list[Oddity]:
    """What is odd among undamaged cases, most serious kind first.

    Args:
        store: the store.
        profiles: profiles of the labelled cases, see :func:`_area_profile`.
        whole: ids of the cases of which every voxel is labelled; only these can be said to lack a
            class, or to have an unusual volume of it.
    """
    cases = store.cases
    return [
        *_same_scan(cases),
        *_other_way(cases, profiles),
        *_against(cases),
        *_missing_classes(store, whole),
        *_unusual_volumes(store, whole),
        *_padded(store),
        *_few_slices(cases),
        *_far_from_median(cases),
        *_mixed(
            cases, "planes", lambda case: case.geometry.plane, "choose one with prepare --plane"
        ),
        *_mixed(
            cases,
            "modalities",
            lambda case: case.modality,
            "if that is wrong, say with prepare --modality",
        ),
        *_stated_spacing(cases),
    ]


def _same_scan(cases: Sequence[CaseRecord]) -> list[Oddity]:
    by_pixels: dict[str, list[CaseRecord]] = defaultdict(list)
    for case in cases:
        by_pixels[case.pixels_sha256].append(case)
    oddities = []
    for first, *others in by_pixels.values():
        for other in others:
            text = f"the same scan as {first.id}"
            if other.subject != first.subject:
                text += (
                    f", but subject {other.subject} and not {first.subject}: one may be trained "
                    "on and the other tested on"
                )
            oddities.append(Oddity("the same scan twice", other.id, f"{text}; leave one out"))
    return oddities


def _area_profile(label: np.ndarray, n_classes: int) -> np.ndarray:
    """How each class is spread along the slice axis, within the labelled slices.

    The extent is cropped to the foreground, because how much of the body lies beyond it differs
    from scan to scan and says nothing about the direction.

    Args:
        label: (slices, rows, columns) class indices, with foreground.
        n_classes: number of foreground classes.

    Returns:
        (n_classes, PROFILE_BINS) float32; each class sums to 1, or to 0 where it is absent.
    """
    areas = np.stack([np.bincount(s.ravel(), minlength=n_classes + 1)[1:] for s in label], axis=1)
    occupied = np.flatnonzero(areas.any(axis=0))
    areas = areas[:, occupied[0] : occupied[-1] + 1]
    n_slices = areas.shape[1]
    below = np.concatenate([np.zeros((n_classes, 1)), areas.cumsum(axis=1)], axis=1)
    edges = np.linspace(0, 1, PROFILE_BINS + 1)
    slice_edges = np.linspace(0, 1, n_slices + 1)
    profile = np.stack([np.diff(np.interp(edges, slice_edges, row)) for row in below])
    total = profile.sum(axis=1, keepdims=True)
    return np.divide(profile, total, out=np.zeros_like(profile), where=total > 0).astype(np.float32)


def _against(cases: Sequence[CaseRecord]) -> list[Oddity]:
    """Cases that ``poscon align`` found to run against the others."""
    return [
        Oddity(
            "slices that run against the others by their images",
            case.id,
            f"clearness {case.axis.clearness:.2f} of 1; look at it, and turn it with prepare "
            "--reverse",
        )
        for case in cases
        if case.axis is not None and case.axis.against
    ]


def _other_way(cases: Sequence[CaseRecord], profiles: dict[str, np.ndarray]) -> list[Oddity]:
    """Cases whose slices seem to run against those of the others, by where the classes lie.

    Reversing the slices negates the antisymmetric part of an area profile and leaves the
    symmetric part. So where anatomy has a direction, the antisymmetric parts of all scans lie
    along one line, whichever way each scan runs: the first principal component through 0, which
    no mixture of directions can cancel, unlike the mean profile. Scans on its two sides run
    opposite ways. Nothing is said unless the line holds most of the asymmetry (SHARED_DIRECTION
    of it), and nothing of a scan that is nearly symmetric or far from the line. Frames of a
    subject are one scan in one order and judged together.

    Lesions that may lie anywhere stay below SHARED_DIRECTION, except for two small kinds that
    never overlap: in about half of the scans the one is above, in the other half the other. That
    cannot be told from a store with both orders, so without a clear majority the message asks.
    """
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case in cases:
        if case.id in profiles:
            by_subject = case.frame is not None
            members[case.geometry.plane, case.subject if by_subject else f"case {case.id}"].append(
                case.id
            )
    if not members:
        return []
    scans = list(members.values())
    mean = np.stack([np.mean([profiles[i] for i in ids], axis=0) for ids in scans])
    odd = ((mean - mean[..., ::-1]) / 2).reshape(len(scans), -1)
    varying = np.linalg.norm(
        (mean - mean.mean(axis=(1, 2), keepdims=True)).reshape(odd.shape), axis=1
    )
    size = np.linalg.norm(odd, axis=1)
    telling = size > LEAST_ASYMMETRY * varying
    scans = [ids for ids, tells in zip(scans, telling, strict=True) if tells]
    if len(scans) < ENOUGH:
        return []
    unit = odd[telling] / size[telling, None]
    variances, axes = np.linalg.eigh(unit.T @ unit / len(unit))
    if variances[-1] < SHARED_DIRECTION:
        return []
    along = unit @ axes[:, -1]
    along *= (
        -1 if along[0] < 0 else 1
    )  # if both ways are equally many, the first scan's is the usual one
    one, other = (along >= CLEAR_DIRECTION).sum(), (along <= -CLEAR_DIRECTION).sum()
    against = along <= -CLEAR_DIRECTION if other <= one else along >= CLEAR_DIRECTION
    usual, unusual = max(one, other), min(one, other)
    text = f"seems to run against {usual} of {usual + unusual} scans; if so, name it for --reverse"
    if unusual > usual / 2:
        text = (
            f"its classes run against those of {usual} of {usual + unusual} scans: look whether "
            "its slices do, and which way is right"
        )
    return [
        Oddity(
            "slices that may run the other way",
            i,
            text,
        )
        for ids, is_against in zip(scans, against, strict=True)
        if is_against
        for i in ids
    ]


def _missing_classes(store: Store, whole: set[str]) -> list[Oddity]:
    labelled = labelled_voxels(store.cases)
    oddities = [
        Oddity("labelled, but empty", case.id, "its label map has no foreground")
        for case, voxels in labelled
        if not any(voxels) and case.id in whole
    ]
    annotated = [(case, voxels) for case, voxels in labelled if any(voxels) and case.id in whole]
    if labelled and not any(any(voxels) for _, voxels in labelled):
        text = "no label map has a labelled voxel; nothing can be learnt from them"
        return [Oddity("no class", None, text), *oddities]
    oddities += [
        Oddity("a class in no case", None, f"{name} is in none of the {len(labelled)} label maps")
        for i, name in enumerate(store.class_names)
        if labelled and not any(voxels[i] for _, voxels in labelled)
    ]
    for i, name in enumerate(store.class_names):
        without = [case.id for case, voxels in annotated if not voxels[i]]
        n = len(annotated)
        if n >= ENOUGH and n - len(without) >= ALMOST_ALL * (n - 1):
            text = f"{name} is missing; {n - len(without)} of {n} annotated cases have it"
            oddities.extend(Oddity("a class is missing", case_id, text) for case_id in without)
        elif n >= ENOUGH and n - len(without) == 1:
            (case, voxels) = next(one for one in annotated if one[1][i])
            text = f"the only one of {n} annotated cases with {name} ({voxels[i]} stored voxels)"
            oddities.append(Oddity("a class in one case", case.id, text))
    return oddities


def _unusual_volumes(store: Store, whole: set[str]) -> list[Oddity]:
    oddities: list[Oddity] = []
    for i, name in enumerate(store.class_names):
        having = [
            (case, voxels[i])
            for case, voxels in labelled_voxels(store.cases)
            if voxels[i] and case.id in whole
        ]
        if len(having) < ENOUGH:
            continue
        ml = np.array([voxels * case.voxel_ml for case, voxels in having])
        deviation = np.log(ml) - np.median(np.log(ml))
        spread = max(1.4826 * float(np.median(np.abs(deviation))), LEAST_SPREAD)
        oddities.extend(
            Oddity(
                "an unusual volume",
                having[j][0].id,
                f"{name} has {ml[j]:.3g} ml, the median is {np.median(ml):.3g} ml",
            )
            for j in np.flatnonzero(np.abs(deviation) > OUTLIER * spread)
        )
    return oddities


def _padded(store: Store) -> list[Oddity]:
    several = len(store.manifest.channels) > 1
    return [
        Oddity(
            "padded",
            case.id,
            f"{channel.intensity.padding:.1%} of the voxels{f' of {name}' if several else ''} are "
            "padding far below air; they were counted as air, or left out at the margin",
        )
        for case in store.cases
        for name, channel in zip(store.manifest.channels, case.channels, strict=True)
        if channel.intensity.padding > 0
    ]


def _few_slices(cases: Sequence[CaseRecord]) -> list[Oddity]:
    return [
        Oddity("few slices", case.id, f"only {case.shape[0]}: its positions say little")
        for case in cases
        if case.shape[0] < FEW_SLICES
    ]


def _far_from_median(cases: Sequence[CaseRecord]) -> list[Oddity]:
    """Extents in plane and slice spacings unlike those of the other cases in the same plane."""
    oddities: list[Oddity] = []
    for plane in sorted({case.geometry.plane for case in cases}):
        group = [case for case in cases if case.geometry.plane == plane]
        # (cases, 3): slice spacing, extent along rows and along columns, all mm
        mm = np.array([(c.spacing[0], *np.multiply(c.shape[1:], c.spacing[1:])) for c in group])
        median = np.median(mm, axis=0)
        far = (mm > FAR * median) | (mm < median / FAR)
        for case, sizes, (spacing_far, *extent_far) in zip(group, mm, far, strict=True):
            if spacing_far:
                text = f"slices {sizes[0]:.3g} mm apart, the median is {median[0]:.3g} mm"
                oddities.append(Oddity("an unusual slice spacing", case.id, text))
            if any(extent_far):
                text = (
                    f"a slice measures {sizes[1]:.0f} x {sizes[2]:.0f} mm, the median is "
                    f"{median[1]:.0f} x {median[2]:.0f} mm"
                )
                oddities.append(Oddity("an unusual extent in plane", case.id, text))
    return sorted(oddities, key=lambda oddity: oddity.kind)


def _mixed(
    cases: Sequence[CaseRecord], what: str, key: Callable[[CaseRecord], str], advice: str
) -> list[Oddity]:
    """One line if the cases differ in something that most data sets have but one of."""
    examples: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        examples[key(case)].append(case.id)
    if len(examples) == 1:
        return []
    parts = (f"{value} in {len(ids)} (such as {ids[0]})" for value, ids in examples.items())
    return [Oddity(f"mixed {what}", None, f"{', '.join(parts)}; {advice}")]


def _stated_spacing(cases: Sequence[CaseRecord]) -> list[Oddity]:
    counts = Counter(case.spacing_from for case in cases)
    return [
        Oddity(
            "spacing not from the headers",
            None,
            f"that of {counts[origin]} of {len(cases)} cases was stated by {who}",
        )
        for origin, who in SPACING_FROM.items()
        if counts[origin]
    ]
