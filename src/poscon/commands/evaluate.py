"""Compare predicted label maps with reference label maps, class by class and case by case."""

import math
from pathlib import Path

from poscon.arguments import checked
from poscon.errors import NotWritten, PartlyDone, PosconError
from poscon.evaluation.labelled import LabelledOfCases, only_labelled, read_labelled
from poscon.evaluation.measuring import class_maps, measure
from poscon.evaluation.pairs import find_label_maps, find_references, make_pairs
from poscon.evaluation.results import Coverage, Evaluation, Row
from poscon.evaluation.schemes import choose_schemes, folder_of
from poscon.evaluation.writing import output_files, write_evaluation
from poscon.leakage import read_seen
from poscon.metrics import NSD_TOLERANCE_MM
from poscon.predictions import PREDICTIONS_FILE
from poscon.progress import say_lines
from poscon.store.slices import NONEMPTY, check_nonempty
from poscon.volumes.case import parse_labels
from poscon.volumes.label_maps import fraction_notes


@checked
def evaluate(
    predictions: Path | str,
    references: Path | str,
    out: Path | str | None = None,
    *,
    layout: str | None = None,
    channel: int | str | None = None,
    on_gap: str | None = None,
    series: str | None = None,
    labels: str | None = None,
    ignore_label: int | None = None,
    labelled_slices: Path | str | None = None,
    source_spacing: tuple[float, float, float] | None = None,
    nsd_tolerance: float = NSD_TOLERANCE_MM,
) -> Evaluation:
    """Compare predictions with references. `poscon.evaluation.writing.RULES` has the conventions.

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
        on_gap: what to do where slices of a DICOM series of ``references`` are missing, as for
            `predict`.
        series: which DICOM series of ``references`` are read, as for `predict`; None: all.
        labels: meaning of the references' values, e.g. ``"1=RV,2=MYO,3=LV"``.
        ignore_label: value of the references' voxels that are not labelled and do not count; None:
            the value of the label ``ignore`` in ``dataset.json``, if there is one.
        labelled_slices: the slices of the references that count. A CSV file with the columns
            ``case`` and ``slice`` (see :func:`poscon.store.slices.read_slice_table`) names them;
            cases that it does not name are left out as not annotated. Numbers are from 0 in the
            order of the file, along the axis across the plane of acquisition (axial where the
            reference is near isotropic). ``"nonempty"``: the slices with foreground; None: all.
        source_spacing: voxel size in mm along the axes of the files. It replaces that of the
            headers for all measures.
        nsd_tolerance: distance in mm up to which surfaces agree, for the normalised surface Dice.

    Returns:
        Every measure of every case and class.

    Raises:
        PosconError: predictions and references are swapped, no prediction has a reference, the
            class names differ, the table of slices does not fit, the tolerance is not above 0, or
            ``out`` exists or lies where nothing can be written.
        NotWritten: everything is measured, and ``out`` could not be written.
        PartlyDone: a prediction lies on another grid than its reference, has an undeclared value,
            or a file cannot be read. The others are measured, and the results are written.
    """
    if not 0 < nsd_tolerance < math.inf:
        raise PosconError(f"--nsd-tolerance {nsd_tolerance:g}: must be above 0 mm, and finite")
    predictions, references = Path(predictions), Path(references)
    of_poscon = [(place / PREDICTIONS_FILE).is_file() for place in (predictions, references)]
    if of_poscon == [False, True]:
        raise PosconError(
            f"{references}: holds predictions ({PREDICTIONS_FILE}), and {predictions} does not; "
            "name the predictions first and the references second"
        )
    outputs = output_files(None if out is None else Path(out))
    declared = parse_labels(labels) if labels is not None else None
    predicted = find_label_maps(predictions)
    found, expected = find_references(
        references, predicted, layout, channel=channel, on_gap=on_gap, series=series
    )
    pairs = make_pairs(predicted, found, references)
    for label_maps in (
        {pair.id: pair.path for pair in pairs},
        {pair.id: pair.reference.path for pair in pairs},
    ):
        say_lines(f"note: {line}" for line in fraction_notes(label_maps))
    labelled: LabelledOfCases | None = None
    if labelled_slices == NONEMPTY:
        labelled = NONEMPTY
    elif labelled_slices is not None:
        what = f"those of {references}"
        labelled = read_labelled(Path(labelled_slices), found, source_spacing, what=what)
    failed: dict[str, str] = {}
    of_predictions, of_references = choose_schemes(
        predictions,
        references,
        pairs,
        declared=declared,
        expected=expected,
        ignore_label=ignore_label,
        spacing=source_spacing,
        failed=failed,
    )
    names = of_references.names
    if not names:
        raise PosconError(f"{references}: no class is labelled; there is nothing to evaluate")
    check_nonempty(of_references.ignore, labelled_slices, where=str(references))

    seen = read_seen(folder_of(predictions))
    rows: list[Row] = []
    not_annotated: list[str] = []
    coverage: dict[str, Coverage] = {}
    for pair in pairs:
        if pair.id in failed:
            continue
        try:
            of_frames = class_maps(pair, of_predictions, of_references, source_spacing)
        except PosconError as error:
            failed[pair.id] = str(error)
            continue
        for maps in of_frames:
            maps = only_labelled(maps, labelled)
            if not maps.annotated:
                not_annotated.append(maps.case)
                continue
            coverage[maps.case] = maps.coverage
            roles = seen.get(pair.id, ())
            rows += measure(maps, names, pair.reference.subject, roles, nsd_tolerance)
    if failed and (len(pairs) == 1 or not rows):
        raise PosconError(next(iter(failed.values())))
    if not rows and labelled not in (None, NONEMPTY):
        raise PosconError(
            f"{labelled_slices}: names no slice of a case that was predicted; there is nothing to "
            "evaluate"
        )
    if not rows:
        raise PosconError(f"{references}: no frame is annotated; there is nothing to evaluate")
    unmatched = tuple(sorted(set(found) - set(predicted))) if predictions.is_dir() else ()
    alone = tuple(sorted(set(predicted) - set(found)))
    evaluation = Evaluation(
        tuple(rows), names, unmatched, alone, tuple(not_annotated), failed, coverage
    )
    try:
        write_evaluation(evaluation, outputs)
    except PosconError as error:
        others = "".join(f"; not measured: {why}" for why in failed.values())
        raise NotWritten(f"{error}{others}", evaluation) from error
    if failed:
        what = "pair(s) of label maps could not be measured"
        raise PartlyDone(what, failed, len(pairs), evaluation)
    return evaluation
