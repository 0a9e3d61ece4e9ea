"""``poscon label``: label maps that were drawn, into a store that is there already."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import alone
from poscon.progress import progress_bar, raise_first
from poscon.store.labelling import (
    check_on_scan,
    known_labels,
    name_labels,
    read_added,
    tidy,
    write_label,
)
from poscon.store.remote import is_url
from poscon.store.slices import check_slice_table, read_slice_table
from poscon.store.store import CaseRecord, ClassRecord, Store
from poscon.store.weak_labels import ranges_line
from poscon.volumes.case import IGNORE, LabelScheme, label_scheme, parse_labels
from poscon.volumes.label_maps import choose_scheme
from poscon.volumes.layouts.base import by_case, scan_files
from poscon.volumes.layouts.labels_json import read_labels_file, stated_scheme
from poscon.volumes.ranges import Ranges, read_ranges
from poscon.volumes.scan import scan_stem, scan_suffix

SlicesOfCases = Mapping[str, tuple[int, ...]]
"""Numbers of slices as in the store, rising, by the id of their case. No case is without one."""


@dataclass(frozen=True)
class Labelling:
    """What `label` did to a store.

    Attributes:
        store: the store, opened again.
        added: the slices that are labelled now and were not before.
        changed: the slices that were labelled before and have other labels now.
        missing: the suggested slices that are not labelled.
        empty: the suggested slices that are labelled and show no structure.
        unexpected: the added slices that were not suggested.
    """

    store: Store
    added: SlicesOfCases
    changed: SlicesOfCases
    missing: SlicesOfCases = field(default_factory=dict)
    empty: SlicesOfCases = field(default_factory=dict)
    unexpected: SlicesOfCases = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """What a user should know, line by line. Slices have their numbers in the files."""
        labelled = [case for case in self.store.cases if case.labelled]
        yield (
            f"{sum(case.n_labelled_slices for case in labelled)} slice(s) of "
            f"{len({case.subject for case in labelled})} subject(s) are labelled in "
            f"{self.store.path}: {_count(self.added)} added, {_count(self.changed)} changed; "
            f"classes {', '.join(self.store.class_names)}"
        )
        if (ranges := ranges_line(self.store.cases)) is not None:
            yield ranges
        if self.missing:
            yield (
                f"{_count(self.missing)} suggested slice(s) not labelled: "
                f"{self._named(self.missing)}"
            )
        if self.empty:
            yield (
                f"{_count(self.empty)} suggested slice(s) without structure: "
                f"{self._named(self.empty)}; was nothing to draw there, or were they not drawn?"
            )
        if self.unexpected:
            yield (
                f"warning: {_count(self.unexpected)} slice(s) that were not suggested are labelled "
                f"now: {self._named(self.unexpected)}; what nobody looked at must have the value "
                "for 'not labelled'"
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
    suggestion: Path | str | None = None,
    ranges: Path | str | None = None,
) -> Labelling:
    """Add label maps, or ranges of structures, to a prepared store. The scans are not read again.

    A voxel that a label map labels gets its label. Every other voxel keeps what the store has.
    Called again with the same arguments after an interruption, it does what is left to do.

    Args:
        store: folder of the prepared store.
        label_maps: folder of label maps. Each has the name of a case, such as ``CASE.nii.gz``, and
            lies on the grid of its scan. ``labels.json`` there, as `suggest` writes it, says what
            the values mean. None: only ranges are added.
        labels: meaning of the label values, such as ``"1=RV,2=MYO"``. None: as the store says,
            else as ``labels.json`` says.
        ignore_label: label value of voxels that are not labelled; None: as ``labels.json`` says.
        suggestion: table of `suggest`. Its slices are compared with those that are labelled. None:
            nothing is compared.
        ranges: a CSV file with the first and the last slice of structures, see
            :mod:`poscon.volumes.ranges`; None: the ranges stay as they are.

    Returns:
        What was added and changed, and how that compares with the suggestion.

    Raises:
        PosconError: the store, a label map or the table cannot be used, the classes are not those
            of the store, nothing is labelled, or a range contradicts a label map. Then the store is
            as it was.
    """
    if is_url(store):
        raise PosconError(
            f"{store}: labels are added to a store in a folder of this machine; copy it there "
            "afterwards"
        )
    folder = None if label_maps is None else Path(label_maps)
    if folder is None:
        _check_ranges_alone(labels, ignore_label, suggestion, ranges)
    elif not folder.is_dir():
        raise PosconError(f"{folder}: no such folder; give the folder of the label maps")
    table = None if suggestion is None else read_slice_table(Path(suggestion))
    Store(store)  # before the folder is locked, which makes it
    with alone(Path(store), "label"):
        opened = Store(store)
        found = [] if folder is None else _label_maps(opened, folder)
        if table is not None:
            counts = {case.id: case.shape[0] for case in opened.cases}
            check_slice_table(table, counts, where=str(suggestion), what=f"those of {store}")
        _check_on_scans(opened, found)
        scheme = _scheme(opened, folder, found, labels, ignore_label)
        known = {} if ranges is None else read_ranges(Path(ranges), scheme.names)
        records = _add(opened, found, scheme, known, str(ranges))
    after = Store(store)
    added, changed = _differences(opened, after, records)
    if table is None:
        return Labelling(after, added, changed)
    return Labelling(after, added, changed, *_compare(after, table, added))


def _check_ranges_alone(
    labels: str | None, ignore_label: int | None, suggestion: object, ranges: object
) -> None:
    """Refuse options that only label maps make use of, and a call that adds nothing."""
    if ranges is None:
        raise PosconError("label: nothing to add; give the folder of the label maps, or --ranges")
    options = {"--labels": labels, "--ignore-label": ignore_label, "--suggestion": suggestion}
    for option, value in options.items():
        if value is not None:
            raise PosconError(f"{option}: no effect without label maps; leave it out")


def _label_maps(store: Store, folder: Path) -> list[tuple[CaseRecord, Path]]:
    """The label maps of a folder, each with its case.

    Raises:
        PosconError: there is none, or one is named like no case.
    """
    files = by_case((scan_stem(path), path) for path in scan_files(folder))
    if not files:
        raise PosconError(f"{folder}: no label map in this folder")
    cases = {case.id: case for case in store.cases}
    found = []
    for stem, path in files.items():
        # 3D Slicer names its segments so
        name = stem.removesuffix(".seg") if scan_suffix(path) == ".nrrd" else stem
        case = cases.get(stem) or cases.get(name)
        if case is None:
            raise PosconError(
                f"{path}: {store.path} has no case {name!r}; a label map has the name of its case, "
                f"and poscon inspect {store.path} lists them"
            )
        found.append((case, path))
    by_case((case.id, path) for case, path in found)
    return found


def _check_on_scans(store: Store, found: Sequence[tuple[CaseRecord, Path]]) -> None:
    """Check the headers of all label maps. All that cannot be used are named."""
    errors = []
    for case, path in found:
        try:
            check_on_scan(store, case, path)
        except PosconError as error:
            errors.append(str(error))
    raise_first(errors)


def _scheme(
    store: Store,
    folder: Path | None,
    found: Sequence[tuple[CaseRecord, Path]],
    labels: str | None,
    ignore_label: int | None,
) -> LabelScheme:
    """What the values of the label maps mean, with the classes in the order of the store.

    Args:
        store: the store.
        folder: folder of the label maps; None: there are none.
        found: the label maps, each with its case.
        labels: as the user says it.
        ignore_label: as the user says it.

    Raises:
        PosconError: the classes are not those of the store, or there is none.
    """
    where = str(folder)
    classes = store.manifest.classes
    if folder is None:
        if not classes:
            raise PosconError(
                f"{store.path}: has no classes yet, so a range can be that of none; add label maps "
                "first"
            )
        return label_scheme(((c.name, c.values) for c in classes), where=str(store.path))
    if not classes and not any(case.labelled for case in store.cases):
        files = [(path, case.stated_spacing) for case, path in found]
        stated = stated_scheme(path for path, _ in files)
        scheme = choose_scheme(stated, labels, ignore_label, files, where=where)
        if not scheme.classes:
            raise PosconError(
                f"{folder}: no label map has a structure, and nothing says which there are; draw "
                "them, or name them with --labels"
            )
        return scheme
    own = label_scheme(((c.name, c.values) for c in classes), where=str(store.path))
    beside = read_labels_file(folder)
    given = beside if labels is None else parse_labels(labels)
    if given is not None and given.classes and set(given.classes) != set(own.classes):
        ours, theirs = (_described(scheme) for scheme in (own, given))
        raise PosconError(
            f"{'--labels' if labels else folder}: the classes are {theirs}, but those of "
            f"{store.path} are {ours}; give the same, or prepare a new store"
        )
    if beside is not None and beside.ignore is not None:
        own = own.with_ignore(beside.ignore, where=f"{folder}: label 'ignore'")
    return choose_scheme(own, None, ignore_label, (), where=where)


def _described(scheme: LabelScheme) -> str:
    """``1=RV,2=MYO``, as for ``--labels``; ``none``."""
    classes = (f"{'+'.join(map(str, c.values))}={c.name}" for c in scheme.classes)
    return ",".join(classes) or "none"


def _add(
    store: Store,
    found: Sequence[tuple[CaseRecord, Path]],
    scheme: LabelScheme,
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
                added, known = read_added(case, path, scheme), known_labels(store, case)
                merged = np.where(added == IGNORE, known, added)
                if (merged != known).any():
                    records[case.id] = write_label(store, case, merged, path, len(scheme.classes))
                labelled |= bool((added != IGNORE).any())
                progress.advance(task)
        if not labelled:
            raise PosconError(
                f"{found[0][1].parent}: not one voxel of its label maps is labelled; look at "
                "--ignore-label"
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
) -> tuple[SlicesOfCases, SlicesOfCases]:
    """The slices that are labelled for the first time, and those that are labelled otherwise."""
    added, changed = {}, {}
    for case in before.cases:
        if case.id not in records:
            continue
        now = records[case.id]
        labels, earlier = after.label(now), known_labels(before, case)
        differs = (labels != earlier).any(axis=(1, 2))
        known = (earlier != IGNORE).any(axis=(1, 2))
        added[case.id] = np.flatnonzero(differs & ~known)
        changed[case.id] = np.flatnonzero(differs & known)
    return _numbers(added), _numbers(changed)


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
            drawn = store.label(cases[name])[labelled]
            structure = ((drawn != 0) & (drawn != IGNORE)).any(axis=(1, 2))
            empty[name] = labelled[~structure]
    unexpected = {
        name: np.setdiff1d(numbers, table.get(name, ())) for name, numbers in added.items()
    }
    return _numbers(missing), _numbers(empty), _numbers(unexpected)


def _numbers(slices: Mapping[str, np.ndarray]) -> SlicesOfCases:
    """Arrays as tuples of whole numbers, without the cases that have none."""
    return {name: tuple(map(int, found)) for name, found in slices.items() if len(found)}


def _count(slices: SlicesOfCases) -> int:
    return sum(map(len, slices.values()))
