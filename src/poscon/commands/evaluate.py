"""Compare predicted label maps with reference label maps, class by class and case by case."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from poscon.arguments import checked
from poscon.errors import PartlyDone, PosconError
from poscon.files import json_text, write_text
from poscon.leakage import describe, read_seen
from poscon.metrics import segmentation_metrics
from poscon.volumes.affine import Spacing, apart_mm, same_place
from poscon.volumes.case import (
    IGNORE,
    LabelScheme,
    discovered_scheme,
    parse_labels,
    whole_values,
)
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.label_maps import read_labels
from poscon.volumes.layouts import read_dataset
from poscon.volumes.layouts.base import scan_files
from poscon.volumes.layouts.dataset_json import (
    FILE,
    labels_of_description,
    read_description,
)
from poscon.volumes.layouts.labels_json import read_labels_file
from poscon.volumes.range_differences import (
    RangeDifference,
    RangeSummary,
    range_differences,
    range_line,
    summarise_ranges,
)
from poscon.volumes.scan import Scan, scan_stem

MEASURES = ("dice", "hd95_mm", "assd_mm")
OUT_SUFFIXES = (".json", ".csv")
RULES = (
    "Dice = 2 |A and B| / (|A| + |B|).",
    "The surface of a class is its voxels with a face neighbour outside the class; what lies "
    "outside the volume counts as outside the class.",
    "HD95 = the larger of the two directed 95th percentiles (interpolated linearly) of the "
    "distances between surface voxel centres, in mm.",
    "ASSD = the mean of the surface distances of both directions, pooled, in mm.",
    "A class absent from both prediction and reference is not measured and not counted in means.",
    "A class absent from exactly one of them has Dice 0, and HD95 and ASSD are the diagonal of the "
    "volume in mm.",
    "'missed' counts the cases whose prediction lacks a class that the reference has.",
    "Mean and standard deviation (n - 1) are over cases; each frame of a series is a case.",
    "The row 'mean' is over cases of each case's mean over its measured classes.",
    "Voxels of a reference that are not labelled (its ignore label) do not count: both maps are "
    "cut to the labelled voxels before anything is measured, volumes too. The cut makes surfaces "
    "of its own, so that HD95 and ASSD of partly labelled references are not those of whole ones. "
    "'unlabelled' has the number of these voxels and of slices without any other.",
    "References without any labelled voxel, and in a 4-D reference frames without any foreground, "
    "are taken as not annotated and left out; they are listed under 'not_annotated'.",
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
        volume_ml: volume in the prediction, in ml.
        reference_volume_ml: volume in the reference, in ml.
        spacing: voxel size in mm along the file's axes, with which all of this was measured.
        range: first and last slice, in the prediction and in the reference.
        seen: roles that the scan had in the training of the model, see :mod:`poscon.leakage`.
    """

    case: str
    subject: str
    class_name: str
    dice: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    reference_volume_ml: float
    spacing: tuple[float, float, float]
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
    """

    name: str
    measured: int
    missed: int
    dice: Spread
    hd95_mm: Spread
    assd_mm: Spread


@dataclass(frozen=True)
class Unlabelled:
    """What did not count, as the references do not label it.

    Attributes:
        voxels: how many.
        slices: how many slices have no other voxel.
        cases: how many cases have such voxels.
    """

    voxels: int = 0
    slices: int = 0
    cases: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        rows: one row for each case and class. Cases are in the order of their file names.
        classes: the foreground classes in the reference's order.
        unmatched: references for which a folder of predictions has no prediction.
        without_reference: predictions of a folder for which there is no reference.
        not_annotated: cases and frames that were left out because the reference labels nothing in
            them.
        failed: by case, what was wrong with a pair that could not be measured.
        unlabelled: the voxels of the references that did not count.
    """

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    unmatched: tuple[str, ...] = ()
    without_reference: tuple[str, ...] = ()
    not_annotated: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Unlabelled = Unlabelled()

    def summary(self) -> list[Summary]:
        """Each class, then ``"mean"``, which is over the mean of each case's classes."""
        cases = list(dict.fromkeys(row.case for row in self.rows))
        values = np.array([[getattr(row, m) for m in MEASURES] for row in self.rows], float)
        values = values.reshape(len(cases), len(self.classes), len(MEASURES))
        missed = np.array([row.missed for row in self.rows]).reshape(values.shape[:2])
        # The three measures of a class are NaN together or not at all.
        some = values[~np.isnan(values[..., 0]).all(axis=1)]
        summaries = [
            _summary(name, values[:, i], int(missed[:, i].sum()))
            for i, name in enumerate(self.classes)
        ]
        return [*summaries, _summary("mean", np.nanmean(some, axis=1), int(missed.sum()))]

    def range_summary(self) -> list[RangeSummary]:
        """The ranges of each class, then ``"all"``: those of all classes together."""
        of_class = [
            summarise_ranges(name, [row.range for row in self.rows if row.class_name == name])
            for name in self.classes
        ]
        return [*of_class, summarise_ranges("all", [row.range for row in self.rows])]


@checked
def evaluate(
    predictions: Path | str,
    references: Path | str,
    out: Path | str | None = None,
    *,
    layout: str | None = None,
    channel: int | None = None,
    labels: str | None = None,
    ignore_label: int | None = None,
    source_spacing: tuple[float, float, float] | None = None,
) -> Evaluation:
    """Compare predictions with references. `RULES` states the conventions.

    Classes are matched by name. The folder of the predictions says what their values mean. If it
    does not, they mean the same as those of the references. ``labels`` says what the references'
    values mean, else the data set's layout, else their folder. If none does, they mean the same
    as those of the predictions. A folder says it in ``labels.json`` (`poscon predict` writes it)
    or in ``dataset.json``, which may lie above ``labelsTr`` or ``labelsTs``. If nothing says it,
    every value found is a class ``class_VALUE``.

    Args:
        predictions: a label map, or a folder of them, ``<case id>.nii.gz``.
        references: a label map, a folder of label maps with the file names of the predictions, or
            a data set whose case ids are the file names of the predictions.
        out: file for the results: a name with suffix .json (summary, cases, rules) or .csv
            (cases), or without suffix for both. Existing files are never overwritten.
        layout: layout by which ``references`` is read as a data set; None detects it.
        channel: number of the image channel of a data set that has several, from 0. All channels
            have the same label maps.
        labels: meaning of the references' values, e.g. ``"1=RV,2=MYO,3=LV"``.
        ignore_label: value of the references' voxels that are not labelled and do not count; None:
            the value of the label ``ignore`` in ``dataset.json``, if there is one.
        source_spacing: voxel size in mm along the axes of the files. It replaces that of the
            headers for all measures.

    Returns:
        Every measure of every case and class.

    Raises:
        PosconError: no prediction has a reference, the class names differ, or ``out`` exists.
        PartlyDone: a prediction lies on another grid than its reference, has an undeclared value,
            or a file cannot be read. The others are measured, and the results are written.
    """
    predictions, references = Path(predictions), Path(references)
    outputs = _outputs(None if out is None else Path(out))
    declared = parse_labels(labels) if labels is not None else None
    predicted = _label_maps(predictions)
    found, expected = _references(references, predicted, layout, channel)
    pairs = _pairs(predicted, found, references)

    folder, beside = _folder(predictions), _folder(references)
    own, seen = _stated_labels(folder), read_seen(folder)
    if declared is None and expected is None:
        expected = _stated_labels(beside)
    failed: dict[str, str] = {}
    stated = [s.ignore for s in (expected, own) if s is not None and s.ignore is not None]
    ignore = ignore_label if ignore_label is not None else next(iter(stated), None)
    # a labels.json may say nothing but the value of what is not labelled
    declared, expected, own = (s if s and s.classes else None for s in (declared, expected, own))
    reference_scheme = (
        declared or expected or own or _discovered(pairs, source_spacing, failed, ignore)
    )
    prediction_scheme = replace(own or reference_scheme, ignore=None)  # a prediction has no gaps
    if ignore is not None:
        where = f"{references}: label 'ignore'" if ignore_label is None else "--ignore-label"
        reference_scheme = reference_scheme.with_ignore(ignore, where=where)
    names = reference_scheme.names
    if set(prediction_scheme.names) != set(names):
        raise PosconError(
            f"{predictions}: the predictions' classes ({', '.join(prediction_scheme.names)}) are "
            f"not the references' ({', '.join(names)}); say with --labels what the references' "
            "values mean, using the predictions' names"
        )
    order = np.array([0, *(names.index(name) + 1 for name in prediction_scheme.names)], np.uint8)

    if not names:
        raise PosconError(f"{references}: no class is labelled; there is nothing to evaluate")
    rows: list[Row] = []
    not_annotated: list[str] = []
    unlabelled = Unlabelled()
    for pair in pairs:
        if pair.id in failed:
            continue
        try:
            prediction, reference = pair.read(reference_scheme, source_spacing)
            where = str(pair.path)
            prediction_map = order[prediction_scheme.to_classes(prediction.data, where=where)]
            where = str(pair.reference.path)
            reference_map = reference_scheme.to_classes(reference.data, where=where)
        except PosconError as error:
            failed[pair.id] = str(error)
            continue
        size = source_spacing or pair.reference.spacing or prediction.spacing
        for case, a, b in _frames(pair.id, prediction_map, reference_map):
            counted = b != IGNORE
            foreground = counted & (b != 0)
            if not counted.any() or (prediction_map.ndim == 4 and not foreground.any()):
                not_annotated.append(case)
                continue
            subject = pair.reference.subject
            x, y, z = b.shape
            geometry = slice_geometry((x, y, z), reference.affine)
            unlabelled = _with(unlabelled, geometry.to_stack(counted))
            axis = geometry.permutation[0]
            ranges = range_differences(a, b, len(names), axis, size[axis])
            of_classes = segmentation_metrics(a, b, size, names, counted)
            for m, difference in zip(of_classes, ranges, strict=True):
                measures = {k: v for k, v in asdict(m).items() if k != "name"}
                roles = seen.get(pair.id, ())
                rows.append(
                    Row(
                        case,
                        subject,
                        m.name,
                        spacing=size,
                        range=difference,
                        seen=roles,
                        **measures,
                    )
                )
    if failed and (len(pairs) == 1 or not rows):
        raise PosconError(next(iter(failed.values())))
    if not rows:
        raise PosconError(f"{references}: no frame is annotated; there is nothing to evaluate")
    unmatched = tuple(sorted(set(found) - set(predicted))) if predictions.is_dir() else ()
    alone = tuple(sorted(set(predicted) - set(found)))
    evaluation = Evaluation(
        tuple(rows), names, unmatched, alone, tuple(not_annotated), failed, unlabelled
    )
    record = evaluation_record(evaluation)
    for path in outputs:
        write_text(path, json_text(record) if path.suffix == ".json" else _csv(evaluation))
    if failed:
        what = "pair(s) of label maps could not be measured"
        raise PartlyDone(what, failed, len(pairs), evaluation)
    return evaluation


def summary_table(evaluation: Evaluation) -> Table:
    """Make the summary for the terminal. Its caption says what was left out."""
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
        notes.append(
            f"{gaps.voxels} voxels of {gaps.cases} reference(s) are not labelled and do not count "
            f"({gaps.slices} slices have no other)"
        )
    if seen := {row.case: row.seen for row in evaluation.rows if row.seen}:
        notes.append(f"{describe(seen)}: no measure of new patients")
    table = Table(caption=escape("\n".join(notes)) or None, caption_justify="left")
    table.add_column("class")
    for heading in ("Dice", "HD95 (mm)", "ASSD (mm)", "cases", "missed"):
        table.add_column(heading, justify="right")
    *classes, mean = evaluation.summary()
    for row in classes:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(mean), style="bold")
    return table


@dataclass(frozen=True)
class _Reference:
    """A reference label map; ``frame_index`` and ``spacing`` as in `poscon.volumes.case.Case`."""

    path: Path
    subject: str
    frame_index: int | None = None
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class _Pair:
    id: str
    path: Path
    reference: _Reference

    def read(self, scheme: LabelScheme | None, spacing: Spacing | None) -> tuple[Scan, Scan]:
        """Read prediction and reference, and check that they lie on the same grid.

        Args:
            scheme: meaning of the reference's values; None: they stay as they are.
            spacing: voxel size in mm along the files' axes, if the user states it.

        Raises:
            PosconError: a file cannot be used, or shape or affine differ.
        """
        stated = spacing or self.reference.spacing
        prediction = read_labels(self.path, spacing=stated)
        reference = read_labels(self.reference.path, scheme, spacing=stated)
        data = reference.data
        if data.ndim == 4 and prediction.data.ndim == 3 and self.reference.frame_index is not None:
            data = data[..., self.reference.frame_index]
        if prediction.data.shape != data.shape:
            raise PosconError(
                f"{self.path}: shape {prediction.data.shape} is not that of its reference "
                f"{self.reference.path}, {data.shape}"
            )
        if not same_place(data.shape, prediction.affine, reference.affine):
            apart = apart_mm(data.shape, prediction.affine, reference.affine)
            raise PosconError(
                f"{self.path}: does not lie where its reference {self.reference.path} does; the "
                f"affines differ by up to {apart:.3g} mm at the corners"
            )
        return prediction, Scan(reference.path, data, reference.affine, reference.header)


def _label_maps(place: Path) -> dict[str, Path]:
    """The scan files of a file or folder, by file name without suffix."""
    if place.is_file():
        return {scan_stem(place): place}
    if not place.is_dir():
        raise PosconError(f"{place}: no such file or folder")
    maps: dict[str, Path] = {}
    for path in scan_files(place):
        if scan_stem(path) in maps:
            raise PosconError(f"{path}: {maps[scan_stem(path)].name} has the same name; keep one")
        maps[scan_stem(path)] = path
    if not maps:
        raise PosconError(f"{place}: no label map in this folder")
    return maps


def _references(
    place: Path, predicted: dict[str, Path], layout: str | None, channel: int | None
) -> tuple[dict[str, _Reference], LabelScheme | None]:
    """The references by case id, and the meaning of their values if they form a data set."""
    if place.is_file():
        for option, value in (("--layout", layout), ("--channel", channel)):
            if value is not None:
                raise PosconError(f"{option}: has no effect, {place} is one file, not a data set")
        if len(predicted) > 1:
            raise PosconError(f"{place}: one reference for {len(predicted)} predictions")
        # A lone reference belongs to the lone prediction, whatever their names.
        (stem,) = predicted
        return {stem: _Reference(place, stem)}, None
    if not place.is_dir():
        raise PosconError(f"{place}: no such file or folder")
    flat = {scan_stem(path) for path in scan_files(place)} & set(predicted)
    if layout is None and flat:
        if channel is not None:
            raise PosconError(f"--channel: has no effect, {place} is a folder of label maps")
        return {stem: _Reference(p, stem) for stem, p in _label_maps(place).items()}, None
    dataset = read_dataset(place, layout, channel=channel)
    references = {
        case.id: _Reference(case.label, case.subject, case.frame_index, case.spacing)
        for case in dataset.cases
        if case.label is not None
    }
    return references, dataset.labels


def _pairs(predicted: dict[str, Path], found: dict[str, _Reference], place: Path) -> list[_Pair]:
    """Pair the predictions with their references. Those without one are left out."""
    pairs = [_Pair(stem, path, found[stem]) for stem, path in predicted.items() if stem in found]
    if not pairs:
        stem, path = next(iter(predicted.items()))
        raise PosconError(f"{path}: no reference named {stem!r} among the {len(found)} in {place}")
    for pair in pairs:
        if pair.path.resolve() == pair.reference.path.resolve():
            raise PosconError(f"{pair.path}: prediction and reference are the same file")
    return pairs


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _stated_labels(folder: Path) -> LabelScheme | None:
    """Read from a folder of label maps what their values mean; None if it does not say.

    ``poscon predict`` writes ``labels.json``. nnU-Net copies ``dataset.json`` beside its
    predictions and has it above its ``labelsTr`` and ``labelsTs``.
    """
    if scheme := read_labels_file(folder):
        return scheme
    above = folder.parent if folder.name in ("labelsTr", "labelsTs") else folder
    for root in (folder, above):
        if (root / FILE).is_file():
            return labels_of_description(root, read_description(root))
    return None


def _discovered(
    pairs: Sequence[_Pair], spacing: Spacing | None, failed: dict[str, str], ignore: int | None
) -> LabelScheme:
    """Make each value except 0 that occurs in any of the files a class.

    Args:
        pairs: the files.
        spacing: voxel size in mm along the files' axes, if the user states it.
        failed: dictionary that gets, by case, what is wrong with a pair that cannot be used.
        ignore: value of voxels that are not labelled, which is no class.

    Raises:
        PosconError: no pair can be used, a file has too many values, or all files are empty.
    """
    values: set[int] = set()
    for pair in pairs:
        try:
            present = {
                scan.path: whole_values(np.unique(scan.data), where=str(scan.path))
                for scan in pair.read(None, spacing)
            }
        except PosconError as error:
            failed[pair.id] = str(error)
            continue
        for path, found in present.items():
            values.update(int(v) for v in found)
            if len(values) > 256:
                raise PosconError(f"{path}: more than 255 label values; is this an image?")
    if len(failed) == len(pairs):
        raise PosconError(next(iter(failed.values())))
    values -= {ignore}
    if not values - {0}:
        raise PosconError("every prediction and every reference is empty (0 everywhere)")
    return discovered_scheme(values, where=str(pairs[0].path))


def _with(known: Unlabelled, counted: np.ndarray) -> Unlabelled:
    """What does not count, and that of another reference (slices, rows, columns)."""
    if counted.all():
        return known
    return Unlabelled(
        known.voxels + int((~counted).sum()),
        known.slices + int((~counted.any(axis=(1, 2))).sum()),
        known.cases + 1,
    )


def _frames(
    case: str, prediction: np.ndarray, reference: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The case id of each frame, with its prediction and its reference, both (X, Y, Z)."""
    if prediction.ndim == 3:
        return [(case, prediction, reference)]
    n = prediction.shape[3]
    width = max(2, len(str(n)))
    return [
        (f"{case}_frame{i + 1:0{width}d}", prediction[..., i], reference[..., i]) for i in range(n)
    ]


def _summary(name: str, values: np.ndarray, missed: int) -> Summary:
    """Summarise an array (cases, measures). It is NaN where nothing was measured."""
    measured = values[~np.isnan(values[:, 0])]
    n = len(measured)
    mean = measured.mean(axis=0) if n else np.full(len(MEASURES), np.nan)
    std = measured.std(axis=0, ddof=1) if n > 1 else np.full(len(MEASURES), np.nan)
    spreads = (Spread(float(m), float(s)) for m, s in zip(mean, std, strict=True))
    return Summary(name, n, missed, *spreads)


def _cells(row: Summary) -> list[str]:
    def text(spread: Spread, digits: int) -> str:
        if math.isnan(spread.mean):
            return "-"
        mean = f"{spread.mean:.{digits}f}"
        return mean if math.isnan(spread.std) else f"{mean} ± {spread.std:.{digits}f}"

    spreads = text(row.dice, 3), text(row.hd95_mm, 2), text(row.assd_mm, 2)
    return [escape(row.name), *spreads, str(row.measured), str(row.missed)]


def _outputs(out: Path | None) -> list[Path]:
    """The files to write.

    Raises:
        PosconError: one of them exists, or ``out`` is a folder or has another suffix.
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
    return paths


def _record(row: Row) -> dict[str, Any]:
    record = asdict(row)
    return {"class" if key == "class_name" else key: value for key, value in record.items()}


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
        "unlabelled": asdict(evaluation.unlabelled),
        "rules": RULES,
    }
    record: dict[str, Any] = _without_nan(content)
    return record


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
