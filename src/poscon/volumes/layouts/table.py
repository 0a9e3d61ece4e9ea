"""A CSV table that names scans, wherever they lie, with their label maps, subjects and splits.

::

    image,label,subject,split
    p1/t2.nii.gz,p1/t2_prostate.nii.gz,p1,train
    p2/t2.nii.gz,,p2,
    /archive/p3.nii.gz,/archive/p3_gt.nii.gz,p3,test

Only ``image`` must be there. Paths are absolute, or relative to the folder of the table. A field of
``label`` is empty for a scan without label map, one of ``subject`` for a scan that is a subject of
its own, and one of ``split`` for a scan of no split. Each frame of a 4-D file is a case, as in a
folder of scans.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from poscon.csv_tables import read_table
from poscon.errors import PosconError
from poscon.files import safe_name
from poscon.volumes.case import Case, Dataset
from poscon.volumes.layouts.base import Layout, frames_of, refuse_channel
from poscon.volumes.layouts.labels_json import stated_scheme
from poscon.volumes.scan import SUFFIXES, scan_stem, scan_suffix

NAME = "csv"
SUFFIX = ".csv"
COLUMNS = ("image", "label", "subject", "split")
"""The columns of a table. Only the first must be there."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        where: the table and the line, for messages.
        image: the file of the scan.
        label: the file of its label map, or None.
        name: what tells the scan from the others: its file name without suffix, with folders
            before it if another scan has the same.
        subject: the person (or animal) scanned.
        split: the part of the data that it belongs to, or an empty text.
    """

    where: str
    image: Path
    label: Path | None
    name: str
    subject: str
    split: str


def is_table(source: Path) -> bool:
    """Whether a path is that of a table."""
    return source.suffix.lower() == SUFFIX and source.is_file()


def read(root: Path, channel: int | str | None) -> Dataset:
    if not is_table(root):
        raise PosconError(f"{root}: the layout {NAME!r} is a CSV file of paths; give that file")
    refuse_channel(channel, NAME)
    rows = read_rows(root)
    cases: list[Case] = []
    for row in rows:
        for column, path in (("image", row.image), ("label", row.label)):
            if path is not None:
                _check_file(path, f"{row.where}: {column} {path}")
        cases += frames_of(Case(row.name, row.subject, row.image, row.label))
    scheme = stated_scheme({row.label for row in rows if row.label is not None})
    return Dataset(NAME, root.parent, tuple(cases), scheme, notes=_notes(root, rows))


def subjects_of(table: Path, split: str) -> list[str]:
    """The subjects of a split of a table, sorted.

    Raises:
        PosconError: the table cannot be used, or has no such split.
    """
    splits = _splits(read_rows(table))
    if split not in splits:
        known = ", ".join(splits) or "it has none"
        raise PosconError(f"{table}: has no split {split!r}; its splits: {known}")
    return splits[split]


def read_rows(table: Path) -> list[Row]:
    """Read a table. The files that it names are not looked at.

    Raises:
        PosconError: the table cannot be read, has no row or other columns, lacks an image or names
            one twice, a label map is an image, or a subject is in two splits.
    """
    lines = _lines(table)
    images = [_path(table, fields["image"], where) for where, fields in lines]
    rows = [
        Row(
            where,
            image,
            _path(table, fields["label"], where) if fields["label"] else None,
            name,
            safe_name(fields["subject"] or name),
            fields["split"],
        )
        for (where, fields), image, name in zip(lines, images, _names(images), strict=True)
    ]
    first: dict[str, Row] = {}
    splits: dict[str, Row] = {}
    for row in rows:
        if row.label is not None and os.path.realpath(row.label) == os.path.realpath(row.image):
            raise PosconError(f"{row.where}: the label map is the image itself; correct one")
        earlier = first.setdefault(os.path.realpath(row.image), row)
        if earlier is not row:
            raise PosconError(f"{row.where}: the image of {earlier.where} once more; remove one")
        other = splits.setdefault(row.subject, row)
        if other.split != row.split:
            raise PosconError(
                f"{row.where}: subject {row.subject!r} is in split {row.split!r} here, and in "
                f"{other.split!r} in {other.where}; a subject is in one split"
            )
    return rows


def _path(table: Path, stated: str, where: str) -> Path:
    """A path as a table states it.

    Raises:
        PosconError: no file can have it.
    """
    path = table.parent / stated
    if "\0" in stated or not scan_stem(path):
        raise PosconError(f"{where}: {stated[:80]!r} is no path of a file; correct it")
    return path


def _lines(table: Path) -> list[tuple[str, dict[str, str]]]:
    """Each row of a table: its place for messages, and a text for each of ``COLUMNS``."""
    lines = [
        (where, dict.fromkeys(COLUMNS, "") | fields)
        for where, fields in read_table(table, COLUMNS[:1], COLUMNS[1:])
    ]
    for where, fields in lines:
        if not fields["image"]:
            raise PosconError(f"{where}: names no image; write its path, or remove the line")
    if not lines:
        raise PosconError(f"{table}: has no row below its heading; write one for each scan")
    return lines


def _names(images: Sequence[Path]) -> list[str]:
    """A name for each image: the shortest end of its path, without suffix, that no other has."""
    paths = [(*image.parts[:-1], scan_stem(image)) for image in images]
    ends = Counter(parts[-depth:] for parts in paths for depth in range(1, len(parts) + 1))
    names = []
    for parts in paths:
        depths = range(1, len(parts) + 1)
        depth = next((depth for depth in depths if ends[parts[-depth:]] == 1), len(parts))
        names.append("_".join(parts[-depth:]))
    return names


def _check_file(path: Path, what: str) -> None:
    if os.path.isdir(path):
        raise PosconError(f"{what}: a folder; give one file, {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):  # a name may be too long for a file
        raise PosconError(f"{what}: no such file; paths are relative to the folder of the table")
    if not scan_suffix(path):
        raise PosconError(f"{what}: not a file that poscon reads here, {', '.join(SUFFIXES)}")


def _splits(rows: Iterable[Row]) -> dict[str, list[str]]:
    """The subjects of each split, sorted."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.split:
            splits.setdefault(row.split, set()).add(row.subject)
    return {split: sorted(splits[split]) for split in sorted(splits)}


def _notes(table: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    splits = _splits(rows)
    if not splits:
        return ()
    counts = ", ".join(f"{split} ({len(subjects)})" for split, subjects in splits.items())
    return (
        f"{table.name} has the splits {counts}, in subjects; a training leaves one out with "
        f"--exclude {table.name}:SPLIT.",
    )


LAYOUT = Layout(
    NAME,
    "a CSV file in place of a folder: the columns image, label, subject, split; paths relative to "
    "it, or absolute",
    is_table,
    read,
)
