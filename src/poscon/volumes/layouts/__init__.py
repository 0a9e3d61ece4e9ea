"""The data set layouts that poscon reads. Each has a file with its ``LAYOUT``."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from poscon import plugins
from poscon.errors import PosconError
from poscon.files import safe_name
from poscon.volumes.case import NO_ID, Dataset
from poscon.volumes.drawing import Drawing
from poscon.volumes.formats.base import voxel_file
from poscon.volumes.layouts import (
    acdc,
    bids,
    chd,
    dataset_json,
    dicom,
    hvsmr,
    kits,
    labels_json,
    mms,
    mmwhs,
    msd,
    nnunet,
    plain,
    table,
    totalsegmentator,
)
from poscon.volumes.layouts.base import Layout
from poscon.volumes.layouts.tree import passed_over
from poscon.volumes.scan import scan_suffix
from poscon.volumes.series import Series

__all__ = [
    "LAYOUTS",
    "Layout",
    "find_layout",
    "folder_of_paths",
    "is_dataset",
    "known_layouts",
    "read_dataset",
]

LAYOUTS: tuple[Layout, ...] = (
    acdc.LAYOUT,
    mms.LAYOUT,
    mmwhs.LAYOUT,
    chd.LAYOUT,
    hvsmr.LAYOUT,
    nnunet.LAYOUT,
    msd.LAYOUT,
    totalsegmentator.LAYOUT,
    kits.LAYOUT,
    bids.LAYOUT,
    dicom.LAYOUT,
    table.LAYOUT,
    plain.LAYOUT,
)
"""poscon's own layouts, in the order in which they are tried: the most specific first."""


_COMPANIONS = (
    dataset_json.FILE,
    labels_json.LABELS_FILE,
    bids.PARTICIPANTS,
    "Info.cfg",
    "README",
    "README.md",
)
"""Files that hold no scans and are not mentioned."""


def is_dataset(source: Path) -> bool:
    """Whether a path can be a data set: a folder, or a table of paths. A file is a single scan."""
    return source.is_dir() or table.is_table(source)


def folder_of_paths(source: Path) -> Path:
    """The folder from which the files of a data set are named: itself, or that of a table."""
    return source.parent if table.is_table(source) else source


def read_dataset(
    root: Path, layout: str | None = None, *, channel: int | str | None = None, **options: Any
) -> Dataset:
    """Find out what a folder of scans, or a table of paths, holds.

    Args:
        root: the data set's folder, or its table.
        layout: the name of a layout, or None to take the first that matches.
        channel: number (from 0) or name of the image channel to use, or several with commas
            between them; None: all channels.
        options: further arguments of the layout; None where nothing is stated.

    Returns:
        The data set with at least one case. Cases are sorted by id. Ids are unique and safe as
        file names.

    Raises:
        PosconError: the folder is missing, holds no cases or contradicts itself.
    """
    if not is_dataset(root):
        what = "file" if root.suffix.lower() == table.SUFFIX else "folder"
        raise PosconError(f"{root}: {'not a folder' if root.exists() else f'no such {what}'}")
    chosen = find_layout(layout) if layout is not None else _detect(root)
    if root.is_file() and chosen.name != table.NAME:
        raise PosconError(
            f"{root}: a table of paths, which the layout {chosen.name!r} does not read; leave "
            "--layout out"
        )
    given = {name: value for name, value in options.items() if value is not None}
    for name in sorted(given.keys() - set(chosen.options)):
        raise PosconError(
            f"--{name.replace('_', '-')}: has no effect on the layout {chosen.name!r}; leave it out"
        )
    dataset = chosen.read(root, channel, **given)
    if not dataset.cases:
        raise PosconError(
            f"{root}: no cases of layout {chosen.name!r} found; looked for {chosen.description}; "
            "give the folder that holds them, or another --layout"
        )
    if root.is_file():  # a table names what is read, whatever lies around it
        return _with_safe_ids(dataset)
    lines = passed_over(root, _files_of(dataset), _COMPANIONS, dataset.unused)
    return replace(_with_safe_ids(dataset), passed_over=lines)


def _files_of(dataset: Dataset) -> Iterator[Path]:
    """Yield every file that is read, and every folder of masks."""
    for case in dataset.cases:
        for path in (*case.image_files, *([] if case.label is None else [case.label])):
            if isinstance(path, Series | Drawing):
                yield from path.files
                continue
            yield path
            if scan_suffix(path) == ".mhd" and (voxels := voxel_file(path)):
                yield voxels


def known_layouts() -> dict[str, str]:
    """The name of every layout and its origin: poscon or a plug-in's package.

    They have the order in which they are tried. Those of plug-ins come before ``plain``, which
    takes any folder with scans.
    """
    sources = plugins.names(plugins.LAYOUTS, _OWN)
    return {**{name: s for name, s in sources.items() if name != _LAST}, _LAST: sources[_LAST]}


def find_layout(name: str) -> Layout:
    """Find a layout of poscon or of a plug-in by its name.

    Raises:
        PosconError: no layout has that name, or the plug-in cannot be used.
    """
    sources = plugins.names(plugins.LAYOUTS, _OWN)
    if sources.get(name) == plugins.OWN:
        return _OWN[name]
    found = plugins.find(plugins.LAYOUTS, name, _OWN, instance_of=Layout)
    if found.name != name:
        raise PosconError(
            f"layout {name!r} of the package {sources[name]}: calls itself {found.name!r}; give "
            "both the same name"
        )
    return found


_OWN = {layout.name: layout for layout in LAYOUTS}
_LAST = plain.LAYOUT.name


def _detect(root: Path) -> Layout:
    if table.is_table(root):
        return table.LAYOUT
    known = known_layouts()
    for name in known:
        layout = find_layout(name)
        if layout.matches(root):
            return layout
    raise PosconError(
        f"{root}: no data set found; looked for the layouts {', '.join(known)}; give the folder "
        "that holds the scans"
    )


def _with_safe_ids(dataset: Dataset) -> Dataset:
    cases = [
        replace(
            case,
            id=re.sub(NO_ID, "_", safe_name(case.id)).lstrip(".") or "_",
            subject=safe_name(case.subject),
            frame=None if case.frame is None else safe_name(case.frame),
        )
        for case in dataset.cases
    ]
    cases.sort(key=lambda case: case.id)
    for first, second in pairwise(cases):
        if first.id == second.id:
            raise PosconError(
                f"two files for the case {first.id!r}: {first.image} and {second.image}; "
                "rename or remove one"
            )
    return replace(dataset, cases=tuple(cases))
