"""``poscon label``: label maps that were drawn, into a store that is there already."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import alone
from poscon.progress import progress_bar, raise_first, say_lines
from poscon.store.added_labels import Found, find_label_maps, scheme_of_added
from poscon.store.labelling import (
    check_on_scan,
    known_labels,
    name_labels,
    read_added,
    tidy,
    without_label,
    write_label,
)
from poscon.store.manifest import CaseRecord, ClassRecord
from poscon.store.names import Names, names_place, read_names
from poscon.store.remote import is_url
from poscon.store.slices import (
    NONEMPTY,
    LabelledSlices,
    check_nonempty,
    check_slice_table,
    read_slice_table,
)
from poscon.store.store import Store
from poscon.store.weak_labels import ranges_line
from poscon.volumes.case import IGNORE, LabelScheme
from poscon.volumes.drawing import files_of
from poscon.volumes.label_maps import fraction_notes
from poscon.volumes.ranges import Ranges, read_ranges

SlicesOfCases = Mapping[str, tuple[int, ...]]
"""Numbers of slices as in the store, rising, by the id of their case. No case is without one."""


@dataclass(frozen=True)
class Labelling:
    """What `label` did to a store.

    Attributes:
        store: the store, opened again.
        added: the slices that are labelled now and were not before.
        changed: the slices that were labelled before and have other labels now.
        withdrawn: the suggested slices that were empty and are not labelled any more.
        removed: the slices that were labelled before and are not now; None: none was to be.
        missing: the suggested slices that are not labelled.
        empty: the suggested slices that are labelled and show no structure.
        unexpected: the added slices that were not suggested.
    """

    store: Store
    added: SlicesOfCases = field(default_factory=dict)
    changed: SlicesOfCases = field(default_factory=dict)
    withdrawn: SlicesOfCases = field(default_factory=dict)
    removed: SlicesOfCases | None = None
    missing: SlicesOfCases = field(default_factory=dict)
    empty: SlicesOfCases = field(default_factory=dict)
    unexpected: SlicesOfCases = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """What a user should know, line by line. Slices have their numbers in the files."""
        labelled = [case for case in self.store.cases if case.labelled]
        done = f"{_count(self.added)} added, {_count(self.changed)} changed"
        if self.removed is not None:
            done = f"{_count(self.removed)} of {len(self.removed)} case(s) removed"
        yield (
            f"{sum(case.n_labelled_slices for case in labelled)} slice(s) of "
            f"{len({case.subject for case in labelled})} subject(s) are labelled in "
            f"{self.store.path}: {done}; classes {', '.join(self.store.class_names) or 'none'}"
        )
        if (ranges := ranges_line(self.store.cases)) is not None:
            yield ranges
        if self.withdrawn:
            yield (
                f"{_count(self.withdrawn)} suggested slice(s) taken out, which had no structure "
                f"and have the value for 'not labelled' now: {self._named(self.withdrawn)}"
            )
        if self.missing:
            yield (
                f"{_count(self.missing)} suggested slice(s) not labelled: "
                f"{self._named(self.missing)}"
            )
        if self.empty:
            yield (
                f"{_count(self.empty)} suggested slice(s) without structure: "
                f"{self._named(self.empty)}; if they were not drawn, draw, or give them the value "
                "for 'not labelled', and run label again"
            )
        if self.unexpected:
            yield (
                f"warning: {_count(self.unexpected)} slice(s) that were not suggested are labelled "
                f"now: {self._named(self.unexpected)}; if nobody looked at them, take these cases "
                "out with --remove, give such slices the value for 'not labelled', and run label "
                "again"
            )

    def _named(self, slices: SlicesOfCases) -> str:
        """``slices 4, 9 of case a; slice 2 of case b``: as in the files, from 0."""
        cases = {case.id: case for case in self.store.cases}
        named = []
        for name, numbers in slices.items():
            in_file = sorted(cases[name].file_slice(number) for number in numbers)
            word = "slice" if len(in_file) == 1 else "slices"
            named.append(f"{word} {', '.join(map(str, in_file))} of case {name}")
        return "; ".join(named)


@checked
def label(
    store: Path | str,
    label_maps: Path | str | None = None,
    *,
    labels: str | None = None,
    ignore_label: int | None = None,
    labelled_slices: Path | str | None = None,
    suggestion: Path | str | None = None,
    ranges: Path | str | None = None,
    remove: Names | None = None,
) -> Labelling:
    """Add label maps, or ranges of structures, to a prepared store; or take labels out of it.

    The scans are not read again. A voxel that a label map labels gets its label. Every other voxel
    keeps what the store has; except that a suggested slice without structure is taken out of the
    store again, where the label map says that it is not labelled. Called again with the same
    arguments after an interruption, it does what is left to do.

    Args:
        store: folder of the prepared store.
        label_maps: folder of label maps. Each has the name of a case, such as ``CASE.nii.gz``, and
            lies on the grid of its scan. ``labels.json`` there, as `suggest` writes it, says what
            the values mean. A folder ``CASE`` with one mask per organ, ``CASE/ORGAN.nii.gz``, is a
            label map too; the names of the masks are those of the classes. None: only ranges are
            added, or labels removed.
        labels: meaning of the label values, such as ``"1=RV,2=MYO"``. None: as the store says,
            else as ``labels.json`` or the names of the masks say.
        ignore_label: label value of voxels that are not labelled; None: as ``labels.json`` says.
        labelled_slices: the labelled slices of the label maps, as for `prepare`: a CSV file with
            the columns ``case`` and ``slice``, or ``"nonempty"``. A label map that the file does
            not name adds nothing. None: all.
        suggestion: table of `suggest`. Its slices are compared with those that are labelled, and
            can be taken out. None: nothing is compared, and nothing taken out.
        ranges: a CSV file with the first and the last slice of structures, see
            :mod:`poscon.volumes.ranges`; None: the ranges stay as they are.
        remove: names of the cases or subjects whose labels are taken out of the store: a file (see
            :func:`poscon.store.names.read_names`), or a list. Their ranges stay. When no label and
            no range is left, the store has no classes either. None: no label is taken out.

    Returns:
        What was added, changed and removed, and how that compares with the suggestion.

    Raises:
        PosconError: the store, a label map or a table cannot be used, the classes are not those
            of the store, nothing is labelled, a range contradicts a label map, or a name is
            unknown. Then the store is as it was.
    """
    if is_url(store):
        raise PosconError(
            f"{store}: labels are added to a store in a folder of this machine; copy it there "
            "afterwards"
        )
    folder = None if label_maps is None else Path(label_maps)
    of_label_maps = {
        "--labels": labels,
        "--ignore-label": ignore_label,
        "--labelled-slices": labelled_slices,
        "--suggestion": suggestion,
    }
    if folder is None:
        _check_without_label_maps(of_label_maps, ranges, remove)
    elif not folder.is_dir():
        raise PosconError(f"{folder}: no such folder; give the folder of the label maps")
    if remove is not None and (folder is not None or ranges is not None):
        raise PosconError(
            "--remove: takes labels out of the store; to add label maps or ranges, give another "
            "command"
        )
    table = None if suggestion is None else read_slice_table(Path(suggestion))
    Store(store)  # before the folder is locked, which makes it
    with alone(Path(store), "label"):
        opened = Store(store)
        if remove is not None:
            return _remove(opened, remove)
        found = [] if folder is None else find_label_maps(opened, folder)
        notes = fraction_notes({case.id: path for case, path in found})
        say_lines(f"note: {line}" for line in notes)
        if table is not None:
            _check_table(opened, table, Path(str(suggestion)))
        _check_on_scans(opened, found)
        scheme = scheme_of_added(opened, folder, found, labels, ignore_label)
        check_nonempty(scheme.ignore, labelled_slices, where=str(folder))
        labelled = _labelled_slices(opened, found, labelled_slices)
        known = {} if ranges is None else read_ranges(Path(ranges), scheme.names)
        records = _add(opened, found, scheme, labelled, table or {}, known, str(ranges))
    after = Store(store)
    added, changed, withdrawn = _differences(opened, after, records)
    if table is None:
        return Labelling(after, added, changed)
    missing, empty, unexpected = _compare(after, table, added)
    return Labelling(after, added, changed, withdrawn, None, missing, empty, unexpected)


def _check_without_label_maps(
    of_label_maps: Mapping[str, object], ranges: object, remove: object
) -> None:
    """Refuse options that only label maps make use of, and a call that does nothing."""
    if ranges is None and remove is None:
        raise PosconError(
            "label: nothing to do; give the folder of the label maps, or --ranges, or --remove"
        )
    for option, value in of_label_maps.items():
        if value is not None:
            raise PosconError(f"{option}: no effect without label maps; leave it out")


def _check_table(store: Store, table: SlicesOfCases, path: Path) -> None:
    """Refuse a table that names a case or a slice which the store does not have."""
    counts = {case.id: case.shape[0] for case in store.cases}
    check_slice_table(table, counts, where=str(path), what=f"those of {store.path}")


def _labelled_slices(
    store: Store, found: Found, labelled_slices: Path | str | None
) -> Mapping[str, LabelledSlices] | None:
    """The labelled slices of each label map, by its case; None: all.

    Raises:
        PosconError: the table cannot be used, or names a case that has no label map.
    """
    if labelled_slices is None:
        return None
    if labelled_slices == NONEMPTY:
        return {case.id: NONEMPTY for case, _ in found}
    path = Path(labelled_slices)
    table = read_slice_table(path, in_files=True)
    _check_table(store, table, path)
    without = sorted(table.keys() - {case.id for case, _ in found})
    if without:
        raise PosconError(
            f"{path}: names {len(without)} case(s) that have no label map, such as {without[0]}; "
            "take their lines out, or add their label maps"
        )
    return {case.id: table.get(case.id, ()) for case, _ in found}


def _remove(store: Store, names: Names) -> Labelling:
    """Take the labels of cases out of a store.

    Raises:
        PosconError: a name is neither a case nor a subject, or the arrays of a case are damaged.
    """
    named = store.select(read_names(names), where=names_place(names))
    labelled = [case for case in named if case.labelled]
    records = {case.id: without_label(store, case) for case in labelled}
    left = [records.get(case.id, case) for case in store.cases]
    if records:
        used = any(case.labelled or case.ranges for case in left)
        classes = store.manifest.classes if used else ()
        name_labels(store, records, classes, {}, ranges_from=names_place(names))
    for case in named:  # also those of a command that was interrupted before this
        tidy(store, case, records.get(case.id, case))
    removed = _numbers({case.id: case.labelled_slice_numbers for case in labelled})
    return Labelling(Store(store.path), removed=removed)


def _check_on_scans(store: Store, found: Found) -> None:
    """Check the headers of all label maps. All that cannot be used are named."""
    errors = []
    for case, path in found:
        try:
            check_on_scan(store, case, path)
        except PosconError as error:
            errors.append(str(error))
    raise_first(errors)


def _add(
    store: Store,
    found: Found,
    scheme: LabelScheme,
    labelled_slices: Mapping[str, LabelledSlices] | None,
    suggested: SlicesOfCases,
    ranges: Ranges,
    ranges_from: str,
) -> dict[str, CaseRecord]:
    """Merge label maps and ranges into the store. If anything fails, the store is as it was.

    Returns:
        The records of the cases whose labels have changed.

    Raises:
        PosconError: a label map cannot be read, has an undeclared value, or none labels a voxel; or
            a range does not fit.
    """
    records: dict[str, CaseRecord] = {}
    labelled = not found
    try:
        with progress_bar() as progress:
            task = progress.add_task("labelling", total=len(found), status="")
            for case, path in found:
                numbers = None if labelled_slices is None else labelled_slices[case.id]
                added = read_added(case, path, scheme, numbers)
                known = known_labels(store, case)
                merged = np.where(added == IGNORE, known, added)
                for number in suggested.get(case.id, ()):
                    if (added[number] == IGNORE).all() and not _structure(known[number]):
                        merged[number] = IGNORE
                if (merged != known).any():
                    records[case.id] = (
                        write_label(store, case, merged, path, len(scheme.classes))
                        if (merged != IGNORE).any()
                        else without_label(store, case)
                    )
                labelled |= bool((added != IGNORE).any()) or case.id in records
                progress.advance(task)
        if not labelled:
            raise PosconError(
                f"{files_of(found[0][1])[0].parent}: not one voxel of its label maps is labelled; "
                "look at --ignore-label and --labelled-slices"
            )
        if records or ranges:
            classes = tuple(ClassRecord(name=c.name, values=c.values) for c in scheme.classes)
            name_labels(store, records, classes, ranges, ranges_from=ranges_from)
    finally:
        now = {case.id: case for case in Store(store.path).cases}
        for case, _ in found:
            tidy(store, case, now[case.id])
    return records


def _differences(
    before: Store, after: Store, records: Mapping[str, CaseRecord]
) -> tuple[SlicesOfCases, SlicesOfCases, SlicesOfCases]:
    """The slices that are labelled for the first time, otherwise, and not any more."""
    added, changed, withdrawn = {}, {}, {}
    for case in before.cases:
        if case.id not in records:
            continue
        labels, earlier = known_labels(after, records[case.id]), known_labels(before, case)
        differs = (labels != earlier).any(axis=(1, 2))
        known, still = ((of != IGNORE).any(axis=(1, 2)) for of in (earlier, labels))
        added[case.id] = np.flatnonzero(differs & ~known)
        changed[case.id] = np.flatnonzero(differs & known & still)
        withdrawn[case.id] = np.flatnonzero(known & ~still)
    return _numbers(added), _numbers(changed), _numbers(withdrawn)


def _structure(labels: np.ndarray) -> bool:
    """Whether some voxel is of a class."""
    return bool(((labels != 0) & (labels != IGNORE)).any())


def _compare(
    store: Store, table: SlicesOfCases, added: SlicesOfCases
) -> tuple[SlicesOfCases, SlicesOfCases, SlicesOfCases]:
    """How the labelled slices compare with a table of suggested ones.

    Returns:
        The suggested slices that are not labelled, the suggested ones that show no structure, and
        the added ones that were not suggested.
    """
    cases = {case.id: case for case in store.cases}
    missing, empty = {}, {}
    for name, numbers in table.items():
        labelled = np.intersect1d(numbers, cases[name].labelled_slice_numbers)
        missing[name] = np.setdiff1d(numbers, labelled)
        if len(labelled):
            drawn = store.label(cases[name])
            empty[name] = np.array([n for n in labelled if not _structure(drawn[n])], int)
    unexpected = {
        name: np.setdiff1d(numbers, table.get(name, ())) for name, numbers in added.items()
    }
    return _numbers(missing), _numbers(empty), _numbers(unexpected)


def _numbers(slices: Mapping[str, np.ndarray]) -> SlicesOfCases:
    """Arrays as tuples of whole numbers, without the cases that have none."""
    return {name: tuple(map(int, found)) for name, found in slices.items() if len(found)}


def _count(slices: SlicesOfCases) -> int:
    return sum(map(len, slices.values()))
