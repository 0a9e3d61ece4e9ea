"""``poscon inspect``: what is in a store, what is odd about it, and a picture of it."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from poscon.errors import PosconError
from poscon.files import complete
from poscon.progress import progress_bar
from poscon.report.contact_sheet import check_target, draw_contact_sheet
from poscon.store.store import MANIFEST, CaseRecord, Manifest, Store, slices_sha256

CONTACT_SHEET = "contact_sheet.png"
TABLE_SUFFIX = "_cases.csv"
ROWS_SHOWN = 20
LINES_SHOWN = 10

CASE_COLUMNS = (
    "case", "subject", "frame", "source", "source_label", "modality", "plane", "slices", "rows",
    "columns", "slice_mm", "row_mm", "column_mm", "spacing_from",
)  # fmt: skip
"""Of the table of cases; the volume of each class and what is odd follow."""

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

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ClassSummary:
    """One foreground class over all labelled cases.

    Attributes:
        name: of the class.
        cases: how many labelled cases it occurs in.
        voxels: as stored, over all cases.
        ml: likewise, by the stored spacing.
    """

    name: str
    cases: int
    voxels: int
    ml: float


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


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        store: its folder.
        manifest: everything the store knows of its cases.
        subjects, labelled_subjects, labelled_cases: how many.
        modalities, planes: cases of each.
        slices: over all cases.
        slice_range: fewest and most slices of a case.
        row_range, column_range: smallest and largest slice, in pixels.
        in_plane_mm, slice_mm: smallest and largest spacing in plane and between slices.
        classes: each foreground class.
        bytes_on_disk: of the cases and the manifest.
        findings: what is odd, most serious kind first.
        contact_sheet: the picture.
        case_table: CSV file with a line for each case.
    """

    store: Path
    manifest: Manifest
    subjects: int
    labelled_subjects: int
    labelled_cases: int
    modalities: dict[str, int]
    planes: dict[str, int]
    slices: int
    slice_range: tuple[int, int]
    row_range: tuple[int, int]
    column_range: tuple[int, int]
    in_plane_mm: tuple[float, float]
    slice_mm: tuple[float, float]
    classes: tuple[ClassSummary, ...]
    bytes_on_disk: int
    findings: tuple[Oddity, ...]
    contact_sheet: Path
    case_table: Path

    @property
    def cases(self) -> int:
        return len(self.manifest.cases)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the layout has to say about the data set."""
        return self.manifest.notes

    @property
    def oddities(self) -> list[str]:
        """What is odd, one line each."""
        return [str(finding) for finding in self.findings]


def inspect(store: Path | str, out: Path | str | None = None) -> Inspection:
    """Look a store over: read every array, find what is odd, draw a contact sheet.

    Args:
        store: the folder that ``poscon prepare`` wrote.
        out: the contact sheet, a .png; None: ``contact_sheet.png`` in the store. A table of all
            cases is written beside it, ``<name>_cases.csv``. Earlier ones of poscon are replaced.

    Raises:
        PosconError: no store there, none of its cases can be read, or ``out`` is no .png or
            another's file.
    """
    opened = Store(store)
    sheet = opened.path / CONTACT_SHEET if out is None else Path(out)
    table = sheet.with_name(sheet.stem + TABLE_SUFFIX)
    check_target(sheet)
    _check_table_target(table)

    found = _read_arrays(opened)
    findings = (*found.oddities, *_oddities(opened, found.profiles))
    cases = opened.cases
    labelled = [case for case in cases if case.labelled]
    inspection = Inspection(
        store=opened.path,
        manifest=opened.manifest,
        subjects=len({case.subject for case in cases}),
        labelled_subjects=len({case.subject for case in labelled}),
        labelled_cases=len(labelled),
        modalities=dict(Counter(case.intensity.modality for case in cases)),
        planes=dict(Counter(case.geometry.plane for case in cases)),
        slices=sum(case.shape[0] for case in cases),
        slice_range=_range(case.shape[0] for case in cases),
        row_range=_range(case.shape[1] for case in cases),
        column_range=_range(case.shape[2] for case in cases),
        in_plane_mm=_range(mm for case in cases for mm in case.spacing[1:]),
        slice_mm=_range(case.spacing[0] for case in cases),
        classes=tuple(
            ClassSummary(
                name=name,
                cases=sum(voxels[i] > 0 for _, voxels in _labelled(cases)),
                voxels=sum(voxels[i] for _, voxels in _labelled(cases)),
                ml=sum(voxels[i] * _voxel_ml(case) for case, voxels in _labelled(cases)),
            )
            for i, name in enumerate(opened.class_names)
        ),
        bytes_on_disk=_bytes_on_disk(opened.path),
        findings=findings,
        contact_sheet=sheet,
        case_table=table,
    )
    draw_contact_sheet(opened, sheet, [case for case in cases if case.id not in found.unreadable])
    _write_table(table, opened, findings)
    return inspection


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """For the terminal: the summary, the first cases, and what is odd."""
    return [
        _summary_table(inspection),
        _case_table(inspection),
        _oddity_list(inspection),
        Text(f"all cases: {inspection.case_table}"),
    ]


@dataclass(frozen=True)
class _Arrays:
    """What only the arrays tell.

    Attributes:
        oddities: damaged cases.
        unreadable: ids of the cases without usable arrays.
        profiles: by id of each case with foreground, its `_area_profile`.
    """

    oddities: tuple[Oddity, ...]
    unreadable: frozenset[str]
    profiles: dict[str, np.ndarray]


def _read_arrays(store: Store) -> _Arrays:
    oddities: list[Oddity] = []
    unreadable: set[str] = set()
    profiles: dict[str, np.ndarray] = {}
    n_classes = len(store.class_names)
    with progress_bar() as progress:
        task = progress.add_task("reading", total=len(store.cases), status="")
        for case in store.cases:
            try:
                image = _load(store, case, "image")
                label = _load(store, case, "label") if case.labelled else None
            except PosconError as error:
                oddities.append(Oddity("damaged", case.id, f"{error}; prepare the store again"))
                unreadable.add(case.id)
            else:
                if slices_sha256(image, label) != case.stored_sha256:
                    oddities.append(
                        Oddity(
                            "damaged",
                            case.id,
                            "its arrays are not those that were prepared (the hash differs); "
                            "prepare the store again",
                        )
                    )
                elif label is not None and label.any():
                    profiles[case.id] = _area_profile(label, n_classes)
            progress.advance(task)
    return _Arrays(tuple(oddities), frozenset(unreadable), profiles)


def _load(store: Store, case: CaseRecord, kind: str) -> np.ndarray:
    """Read an array whole. Unlike the store's own maps it does not stay open: there may be many."""
    path = store.path / "cases" / case.id / f"{kind}.npy"
    try:
        array = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise PosconError(f"{kind}.npy cannot be read ({error})") from error
    if array.shape != case.shape:
        raise PosconError(f"{kind}.npy has shape {array.shape}, the manifest says {case.shape}")
    return array


def _oddities(store: Store, profiles: dict[str, np.ndarray]) -> list[Oddity]:
    """What is odd among undamaged cases, most serious kind first."""
    cases = store.cases
    return [
        *_same_scan(cases),
        *_other_way(cases, profiles),
        *_missing_classes(store),
        *_unusual_volumes(store),
        *_few_slices(cases),
        *_far_from_median(cases),
        *_mixed(
            cases, "planes", lambda case: case.geometry.plane, "choose one with prepare --plane"
        ),
        *_mixed(
            cases,
            "modalities",
            lambda case: case.intensity.modality,
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
        n_classes: of foreground.

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


def _missing_classes(store: Store) -> list[Oddity]:
    labelled = _labelled(store.cases)
    oddities = [
        Oddity("labelled, but empty", case.id, "its label map has no foreground")
        for case, voxels in labelled
        if not any(voxels)
    ]
    annotated = [(case, voxels) for case, voxels in labelled if any(voxels)]
    for i, name in enumerate(store.class_names):
        without = [case.id for case, voxels in annotated if not voxels[i]]
        n = len(annotated)
        if n >= ENOUGH and n - len(without) >= ALMOST_ALL * (n - 1):
            text = f"{name} is missing; {n - len(without)} of {n} annotated cases have it"
            oddities.extend(Oddity("a class is missing", case_id, text) for case_id in without)
    return oddities


def _unusual_volumes(store: Store) -> list[Oddity]:
    oddities: list[Oddity] = []
    for i, name in enumerate(store.class_names):
        having = [(case, voxels[i]) for case, voxels in _labelled(store.cases) if voxels[i]]
        if len(having) < ENOUGH:
            continue
        ml = np.array([voxels * _voxel_ml(case) for case, voxels in having])
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


def _labelled(cases: Sequence[CaseRecord]) -> list[tuple[CaseRecord, tuple[int, ...]]]:
    """The labelled cases, each with the voxels of its classes."""
    return [(case, case.class_voxels) for case in cases if case.class_voxels is not None]


def _voxel_ml(case: CaseRecord) -> float:
    return float(np.prod(case.spacing)) / 1000


def _range(values: Iterable[Number]) -> tuple[Number, Number]:
    found = list(values)
    return min(found), max(found)


def _bytes_on_disk(store: Path) -> int:
    files = (store / MANIFEST, *(store / "cases").glob("*/*"))
    return sum(file.stat().st_size for file in files)


def _summary_table(inspection: Inspection) -> RenderableType:
    manifest, names = inspection.manifest, [c.name for c in inspection.manifest.classes]
    table = Table(show_header=False, box=None, title=escape(str(inspection.store)))
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "layout": manifest.layout,
        "cases": f"{inspection.cases} of {inspection.subjects} subjects",
        "labelled": f"{inspection.labelled_cases} of {inspection.labelled_subjects} subjects",
        "modality": _counts(inspection.modalities),
        "plane": _counts(inspection.planes),
        "slices": f"{inspection.slices}, {_span(inspection.slice_range)} a case",
        "slice size": f"{_span(inspection.row_range)} x {_span(inspection.column_range)} pixels",
        "spacing": f"{_span(inspection.in_plane_mm)} mm in plane, "
        f"{_span(inspection.slice_mm)} mm between slices",
        "classes": ", ".join(names) or "none",
        "on disk": f"{inspection.bytes_on_disk / 1e6:.1f} MB",
    }
    for heading, value in rows.items():
        table.add_row(heading, escape(value))
    for note in inspection.notes:
        table.add_row("note", escape(note))
    if not inspection.classes or not inspection.labelled_cases:
        return table
    classes = Table()
    classes.add_column("class")
    for heading in ("cases", "voxels", "ml", "ml a case"):
        classes.add_column(heading, justify="right")
    for c in inspection.classes:
        mean = f"{c.ml / c.cases:.4g}" if c.cases else "-"
        in_cases = f"{c.cases} of {inspection.labelled_cases}"
        classes.add_row(escape(c.name), in_cases, str(c.voxels), f"{c.ml:.4g}", mean)
    return Group(table, classes)


def _case_table(inspection: Inspection) -> Table:
    shown = inspection.manifest.cases[:ROWS_SHOWN]
    more = inspection.cases - len(shown)
    table = Table(caption=f"... and {more} more" if more else None, caption_justify="left")
    for heading in ("case", "subject"):
        table.add_column(heading, overflow="fold")
    for heading in ("slices x rows x columns", "mm", "foreground (ml)"):
        table.add_column(heading, justify="right")
    for case in shown:
        shape = " x ".join(map(str, case.shape))
        mm = " x ".join(f"{size:.3g}" for size in case.spacing)
        foreground = (
            "-" if case.class_voxels is None else f"{sum(case.class_voxels) * _voxel_ml(case):.4g}"
        )
        table.add_row(escape(case.id), escape(case.subject), shape, mm, foreground)
    return table


def _oddity_list(inspection: Inspection) -> Text:
    """What is odd by kind, of each kind the first `LINES_SHOWN`."""
    if not inspection.findings:
        return Text("Nothing odd.")
    by_kind: dict[str, list[Oddity]] = defaultdict(list)
    for finding in inspection.findings:
        by_kind[finding.kind].append(finding)
    text = Text()
    for kind, findings in by_kind.items():
        text.append(f"Odd: {kind} ({len(findings)})\n", style="bold yellow")
        for finding in findings[:LINES_SHOWN]:
            text.append(f"  {finding}\n")
        if len(findings) > LINES_SHOWN:
            text.append(f"  ... and {len(findings) - LINES_SHOWN} more\n")
    text.rstrip()
    return text


def _counts(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({n} cases)" for value, n in counts.items())


def _span(limits: tuple[float, float]) -> str:
    low, high = (f"{limit:.4g}" for limit in limits)
    return low if low == high else f"{low} to {high}"


def _check_table_target(path: Path) -> None:
    """Refuse to replace a file that is no table of ours."""
    if path.exists():
        ours = ",".join(CASE_COLUMNS).encode()
        if path.is_dir() or not path.read_bytes().startswith(ours):
            raise PosconError(
                f"{path}: the table of cases would go here, but this is no table of poscon; "
                "choose another --out"
            )


def _write_table(path: Path, store: Store, findings: Iterable[Oddity]) -> None:
    """Write a line for each case; the file is complete or absent."""
    odd: dict[str | None, list[str]] = defaultdict(list)
    for finding in findings:
        odd[finding.case].append(f"{finding.kind}: {finding.text}")
    with complete(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*CASE_COLUMNS, *(f"{name}_ml" for name in store.class_names), "odd"])
        for case in store.cases:
            voxels = case.class_voxels
            ml = (
                [""] * len(store.class_names)
                if voxels is None
                else [f"{n * _voxel_ml(case):.6g}" for n in voxels]
            )
            writer.writerow(
                [
                    case.id,
                    case.subject,
                    case.frame or "",
                    case.source,
                    case.source_label or "",
                    case.intensity.modality,
                    case.geometry.plane,
                    *case.shape,
                    *(f"{mm:.6g}" for mm in case.spacing),
                    case.spacing_from,
                    *ml,
                    "; ".join(odd[case.id]),
                ]
            )
