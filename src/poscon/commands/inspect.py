"""``poscon inspect`` shows what is in a store, what is odd about it, and a picture of it."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import cell_of_path, complete
from poscon.pictures.contact_sheet import check_target, draw_contact_sheet
from poscon.pictures.labelled_slices import draw_labelled_slices
from poscon.store.manifest import Manifest
from poscon.store.oddities import DAMAGED, Oddity, find_oddities
from poscon.store.remote import is_url
from poscon.store.store import Store, labelled_voxels, sparse_line
from poscon.store.weak_labels import ranges_line

CONTACT_SHEET = "contact_sheet.png"
LABELLED_SUFFIX = "_labelled.png"
TABLE_SUFFIX = "_cases.csv"
ROWS_SHOWN = 20
LINES_SHOWN = 10

CASE_COLUMNS = (
    "case", "subject", "frame", "source", "source_label", "modality", "plane", "slices", "rows",
    "columns", "slice_mm", "row_mm", "column_mm", "spacing_from", "labelled_slices",
)  # fmt: skip
"""First columns of the table of cases. The volume of each class and what is odd follow."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ClassSummary:
    """One foreground class over all labelled cases.

    Attributes:
        name: name of the class.
        cases: number of labelled cases in which it occurs.
        voxels: number of stored voxels over all cases.
        ml: volume in ml of these voxels, by the stored spacing.
    """

    name: str
    cases: int
    voxels: int
    ml: float


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
        store: folder or URL of the store.
        manifest: everything that the store knows about its cases.
        subjects, labelled_subjects, labelled_cases: numbers of them.
        modalities, planes: number of cases of each.
        slices: number of slices of all cases.
        slice_range: fewest and most slices of a case.
        row_range, column_range: smallest and largest slice, in pixels.
        in_plane_mm, slice_mm: smallest and largest spacing in plane and between slices, in mm.
        classes: summary of each foreground class.
        stored_bytes: size of the arrays in bytes.
        findings: what is odd, the most serious kind first.
        contact_sheet: file of the picture.
        case_table: CSV file with a line for each case.
        labelled_slices: which slices of the labelled cases are labelled.
        cases_with_ranges: number of cases with a stated range of a structure.
        labelled_picture: which slices are labelled, by position; None where all slices of all
            labelled cases are.
    """

    store: Path | str
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
    stored_bytes: int
    findings: tuple[Oddity, ...]
    contact_sheet: Path
    case_table: Path
    labelled_slices: int
    cases_with_ranges: int
    labelled_picture: Path | None

    @property
    def cases(self) -> int:
        return len(self.manifest.cases)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the layout on the data set."""
        return self.manifest.notes

    @property
    def oddities(self) -> list[str]:
        """What is odd, one line each."""
        return [str(finding) for finding in self.findings]


@checked
def inspect(store: Path | str, out: Path | str | None = None) -> Inspection:
    """Check a store: read every array, find what is odd, draw a contact sheet.

    Args:
        store: the folder that ``poscon prepare`` wrote, or the URL of a copy.
        out: file of the contact sheet, a .png; None: ``contact_sheet.png`` in the store. A table
            of all cases is written beside it, ``<name>_cases.csv``. If only some slices are
            labelled, a picture shows which, ``<name>_labelled.png``. Earlier files of poscon are
            replaced.

    Raises:
        PosconError: there is no store, none of its cases can be read, ``out`` is no .png or a file
            that poscon did not write, or ``out`` is missing and the store is a URL.
    """
    if out is None and is_url(store):
        raise PosconError(f"{store}: is only read; say with --out where the contact sheet goes")
    opened = Store(store)
    sheet = Path(store) / CONTACT_SHEET if out is None else Path(out)
    table = sheet.with_name(sheet.stem + TABLE_SUFFIX)
    check_target(sheet)
    _check_table_target(table)
    sparse = any(case.partly_labelled for case in opened.cases)
    strips = sheet.with_name(sheet.stem + LABELLED_SUFFIX) if sparse else None
    if strips is not None:
        check_target(strips)

    findings = find_oddities(opened)
    damaged = {finding.case for finding in findings if finding.kind == DAMAGED}
    cases = opened.cases
    labelled = [case for case in cases if case.labelled]
    inspection = Inspection(
        store=opened.path,
        manifest=opened.manifest,
        subjects=len({case.subject for case in cases}),
        labelled_subjects=len({case.subject for case in labelled}),
        labelled_cases=len(labelled),
        modalities=dict(Counter(case.modality for case in cases)),
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
                cases=sum(voxels[i] > 0 for _, voxels in labelled_voxels(cases)),
                voxels=sum(voxels[i] for _, voxels in labelled_voxels(cases)),
                ml=sum(voxels[i] * case.voxel_ml for case, voxels in labelled_voxels(cases)),
            )
            for i, name in enumerate(opened.class_names)
        ),
        stored_bytes=sum(case.stored_bytes for case in cases),
        findings=findings,
        contact_sheet=sheet,
        case_table=table,
        labelled_slices=sum(case.n_labelled_slices for case in cases),
        cases_with_ranges=sum(bool(case.ranges) for case in cases),
        labelled_picture=strips,
    )
    draw_contact_sheet(opened, sheet, [case for case in cases if case.id not in damaged])
    if strips is not None:
        draw_labelled_slices(cases, strips)
    _write_table(table, opened, findings)
    return inspection


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """The content for the terminal: the summary, the first cases, and what is odd."""
    return [
        _summary_table(inspection),
        _case_table(inspection),
        _oddity_list(inspection),
        Text(f"all cases: {inspection.case_table}"),
    ]


def inspection_record(inspection: Inspection) -> dict[str, Any]:
    """The content for JSON: counts and ranges, every class, what is odd, and the files' paths."""
    manifest = inspection.manifest
    ranges = ("slice_range", "row_range", "column_range", "in_plane_mm", "slice_mm")
    counts = (
        *("cases", "subjects", "labelled_cases", "labelled_subjects", "slices"),
        *("labelled_slices", "cases_with_ranges", "stored_bytes"),
    )
    strips = inspection.labelled_picture
    return {
        "store": str(inspection.store),
        "layout": manifest.layout,
        "preparation": manifest.preparation.model_dump(mode="json"),
        **{name: getattr(inspection, name) for name in counts},
        "modalities": inspection.modalities,
        "planes": inspection.planes,
        **{name: list(getattr(inspection, name)) for name in ranges},
        "classes": [asdict(each) for each in inspection.classes],
        "notes": list(inspection.notes),
        "oddities": [asdict(finding) for finding in inspection.findings],
        "contact_sheet": str(inspection.contact_sheet),
        "case_table": str(inspection.case_table),
        "labelled_picture": None if strips is None else str(strips),
    }


def _range(values: Iterable[Number]) -> tuple[Number, Number]:
    found = list(values)
    return min(found), max(found)


def _summary_table(inspection: Inspection) -> RenderableType:
    manifest, names = inspection.manifest, [c.name for c in inspection.manifest.classes]
    table = Table(show_header=False, box=None, title=escape(str(inspection.store)))
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "layout": manifest.layout,
        "cases": f"{inspection.cases} of {inspection.subjects} subjects",
        "labelled": f"{inspection.labelled_cases} of {inspection.labelled_subjects} subjects",
        **({} if (line := sparse_line(manifest.cases)) is None else {"labelled slices": line}),
        **({} if (line := ranges_line(manifest.cases)) is None else {"ranges": line}),
        "channels": ", ".join(f"{name} ({i})" for i, name in enumerate(manifest.channels)),
        "modality": _counts(inspection.modalities),
        "plane": _counts(inspection.planes),
        "slices": f"{inspection.slices}, {_span(inspection.slice_range)} a case",
        "slice size": f"{_span(inspection.row_range)} x {_span(inspection.column_range)} pixels",
        "spacing": f"{_span(inspection.in_plane_mm)} mm in plane, "
        f"{_span(inspection.slice_mm)} mm between slices",
        "classes": ", ".join(names) or "none",
        "arrays": f"{inspection.stored_bytes / 1e6:.1f} MB",
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
    for heading in ("slices x rows\nx columns", "mm", "foreground\n(ml)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case in shown:
        shape = " x ".join(map(str, case.shape))
        mm = " x ".join(f"{size:.3g}" for size in case.spacing)
        foreground = (
            "-" if case.class_voxels is None else f"{sum(case.class_voxels) * case.voxel_ml:.4g}"
        )
        table.add_row(escape(case.id), escape(case.subject), shape, mm, foreground)
    return table


def _oddity_list(inspection: Inspection) -> Text:
    """List what is odd by kind. The first `LINES_SHOWN` of each kind are shown."""
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
    """Refuse to replace a file that is no table of poscon."""
    if path.exists():
        ours = ",".join(CASE_COLUMNS).encode()
        if path.is_dir() or not path.read_bytes().startswith(ours):
            raise PosconError(
                f"{path}: the table of cases would go here, but this is no table of poscon; "
                "choose another --out"
            )


def _write_table(path: Path, store: Store, findings: Iterable[Oddity]) -> None:
    """Write a line for each case. The file is complete or absent."""
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
                else [f"{n * case.voxel_ml:.6g}" for n in voxels]
            )
            writer.writerow(
                [
                    case.id,
                    case.subject,
                    case.frame or "",
                    cell_of_path(case.source),
                    cell_of_path(case.source_label or ""),
                    case.modality,
                    case.geometry.plane,
                    *case.shape,
                    *(f"{mm:.6g}" for mm in case.spacing),
                    case.spacing_from,
                    case.n_labelled_slices,
                    *ml,
                    "; ".join(odd[case.id]),
                ]
            )
