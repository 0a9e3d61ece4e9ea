"""The results of an evaluation in a file or in the terminal, with the rules that they follow."""

import csv
import io
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from poscon.errors import PosconError
from poscon.evaluation.results import Evaluation, Row, Spread, Summary
from poscon.files import check_writable, complete, json_text
from poscon.leakage import describe
from poscon.volumes.range_differences import range_line

OUT_SUFFIXES = (".json", ".csv")
RULES = (
    "Dice = 2 |A and B| / (|A| + |B|).",
    "The surface of a class is its voxels with a face neighbour outside the class; what lies "
    "outside the volume counts as outside the class. A volume of one slice has no neighbours "
    "across it.",
    "HD95 = the larger of the two directed 95th percentiles (interpolated linearly) of the "
    "distances between surface voxel centres, in mm.",
    "ASSD = the mean of the surface distances of both directions, pooled, in mm.",
    "NSD = the share of the surface voxels of both, counted and not weighted by their area, whose "
    "distance is at most 'nsd_tolerance_mm'.",
    "RVD = (volume of the prediction - volume of the reference) / volume of the reference.",
    "A class absent from both prediction and reference is not measured and not counted in means.",
    "A class absent from exactly one of them has Dice and NSD 0, and HD95 and ASSD are the "
    "diagonal of the volume in mm. RVD is -1 if the prediction lacks it, and not measured if the "
    "reference does.",
    "'missed' counts the cases whose prediction lacks a class that the reference has.",
    "Mean and standard deviation (n - 1) are over cases; each frame of a series is a case.",
    "The row 'mean' is over cases of each case's mean over its measured classes.",
    "Voxels of a reference that are not labelled (its ignore label, and slices that are not "
    "labelled slices) do not count: both maps are cut to the labelled voxels before anything is "
    "measured, volumes too. A neighbour that is not labelled makes no surface, so the surface of a "
    "slice between slices without labels is its contour. HD95, ASSD and NSD of partly labelled "
    "references are therefore not those of whole ones. 'unlabelled' has the number of these voxels "
    "and of slices without any other, 'counted' has the number of slices with a labelled voxel.",
    "Where only slices with foreground count as labelled, what a prediction adds in other slices "
    "is not measured.",
    "References without any labelled voxel, and in a 4-D reference frames without any foreground, "
    "are taken as not annotated and left out; they are listed under 'not_annotated'. A frame of "
    "which a table names slices is annotated.",
    "The range of a class is its first and its last slice, in numbers of the file's slices from 0. "
    "Slices lie in the plane in which the reference was acquired, by its spacing; axial if it is "
    "near isotropic. A difference is that of the prediction minus that of the reference.",
    "A range is of the whole prediction. The first slice of a class in a partly labelled reference "
    "is known if all slices before it are wholly labelled, the last one if all after it are.",
    "'seen' lists the roles that this very scan had in the training of the model; it is found by "
    "its pixels, and another scan of the same person is not.",
    "References without a prediction are not in any mean; they are listed under 'unmatched'.",
    "Predictions without a reference are not in any mean; they are listed under "
    "'without_reference'.",
    "Pairs of label maps that could not be measured are not in any mean; they are listed under "
    "'failed'.",
)


def output_files(out: Path | None) -> list[Path]:
    """The files to write.

    Args:
        out: a name with suffix .json or .csv, or without suffix for both; None: nothing.

    Raises:
        PosconError: one of them exists, ``out`` is a folder or has another suffix, or nothing can
            be written there.
    """
    if out is None:
        return []
    if out.is_dir():
        raise PosconError(f"{out}: is a folder; name a file in it, such as {out / 'results.json'}")
    if out.suffix not in ("", *OUT_SUFFIXES):
        raise PosconError(f"{out}: results are written as .json or .csv (no suffix: both)")
    paths = [out] if out.suffix else [out.with_suffix(suffix) for suffix in OUT_SUFFIXES]
    for path in paths:
        if path.exists():
            raise PosconError(f"{path}: exists already and is not overwritten; choose another name")
        check_writable(path)
    return paths


def write_evaluation(evaluation: Evaluation, paths: Sequence[Path]) -> None:
    """Write ``FILE.json`` and ``FILE.csv``, by the suffix. If one cannot be written, none is.

    Raises:
        PosconError: the disk is full, or the place cannot be written.
    """
    with ExitStack() as both:
        for path in paths:
            part = both.enter_context(complete(path))
            is_json = path.suffix == ".json"
            text = json_text(evaluation_record(evaluation)) if is_json else _csv(evaluation)
            part.write_text(text, encoding="utf-8", errors="backslashreplace")


def summary_table(evaluation: Evaluation) -> Table:
    """Make the summary for the terminal. Its caption says what was left out.

    It has the measures that fit into 80 characters. The files have all of them.
    """
    notes = [
        f"{len(ids)} {what}: {', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''}"
        for ids, what in (
            (evaluation.unmatched, "reference(s) without a prediction"),
            (evaluation.without_reference, "prediction(s) without a reference"),
            (evaluation.not_annotated, "case(s) or frame(s) without annotation"),
            (list(evaluation.failed), "pair(s) that could not be measured"),
        )
        if ids
    ]
    if (line := range_line(evaluation.range_summary()[-1])) is not None:
        notes.insert(0, line)
    if (gaps := evaluation.unlabelled).voxels:
        counted = evaluation.counted
        notes += [
            f"{counted.slices} of {counted.of_slices} slices of {counted.cases} case(s) count; the "
            "references do not label the others",
            f"{gaps.voxels} voxels of {gaps.cases} reference(s) are not labelled and do not count "
            f"({gaps.slices} slices have no other)",
        ]
    if seen := {row.case: row.seen for row in evaluation.rows if row.seen}:
        notes.append(f"{describe(seen)}: no measure of new patients")
    table = Table(caption=escape("\n".join(notes)) or None, caption_justify="left")
    table.add_column("class")
    nsd = f"NSD ({evaluation.rows[0].nsd_tolerance_mm:g} mm)"
    for heading in ("Dice", "HD95 (mm)", nsd, "cases", "missed"):
        table.add_column(heading, justify="right")
    *classes, mean = evaluation.summary()
    for row in classes:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(mean), style="bold")
    return table


def evaluation_record(evaluation: Evaluation) -> dict[str, Any]:
    """The content of ``FILE.json``: summary, cases, what was left out, the rules; None for NaN."""
    *classes, mean = (asdict(s) for s in evaluation.summary())
    content = {
        "summary": {
            "classes": classes,
            "mean": mean,
            "ranges": [asdict(s) for s in evaluation.range_summary()],
        },
        "cases": [_record(row) for row in evaluation.rows],
        "unmatched": evaluation.unmatched,
        "without_reference": evaluation.without_reference,
        "not_annotated": evaluation.not_annotated,
        "failed": evaluation.failed,
        "counted": asdict(evaluation.counted),
        "unlabelled": asdict(evaluation.unlabelled),
        "rules": RULES,
    }
    record: dict[str, Any] = _without_nan(content)
    return record


def _cells(row: Summary) -> list[str]:
    def text(spread: Spread, digits: int) -> str:
        if math.isnan(spread.mean):
            return "-"
        mean = f"{spread.mean:.{digits}f}"
        return mean if math.isnan(spread.std) else f"{mean} ± {spread.std:.{digits}f}"

    measures = text(row.dice, 3), text(row.hd95_mm, 2), text(row.nsd, 3)
    return [escape(row.name), *measures, str(row.measured), str(row.missed)]


def _record(row: Row) -> dict[str, Any]:
    record = asdict(row)
    return {"class" if key == "class_name" else key: value for key, value in record.items()}


def _without_nan(content: Any) -> Any:
    """Replace every NaN by None, because JSON has no NaN."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def _csv(evaluation: Evaluation) -> str:
    """Make the text of ``FILE.csv`` with one line for each row. NaN is an empty field."""
    records = [_without_nan(_record(row)) for row in evaluation.rows]
    for record in records:
        x, y, z = record.pop("spacing")
        record.update(spacing_x_mm=x, spacing_y_mm=y, spacing_z_mm=z)
        record["seen"] = " ".join(record.pop("seen"))
        difference = record.pop("range")
        record["range"] = difference.pop("state")
        record.update(difference)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
