"""Which slices of the references count: those of a table, or those that were drawn on."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from poscon.evaluation.measuring import ClassMaps
from poscon.evaluation.pairs import Reference, frame_names
from poscon.store.slices import (
    NONEMPTY,
    LabelledSlices,
    check_slice_table,
    only_slices,
    read_slice_table,
)
from poscon.volumes.affine import Spacing
from poscon.volumes.geometry import slice_geometry
from poscon.volumes.label_maps import read_label_header

LabelledOfCases = Mapping[str, tuple[int, ...]] | Literal["nonempty"]
"""The labelled slices by case, of which a case may have none; or
:data:`poscon.store.slices.NONEMPTY`."""


def read_labelled(
    table: Path, references: Mapping[str, Reference], spacing: Spacing | None, *, what: str
) -> dict[str, tuple[int, ...]]:
    """A table of the labelled slices of references, checked against their headers.

    Args:
        table: the file, see :func:`poscon.store.slices.read_slice_table`. A frame of a 4-D
            reference is a case, ``CASE_frame01``.
        references: the references by case id. Only those that the table names are opened.
        spacing: voxel size in mm along the files' axes, if the user states it.
        what: the name of all the references together, for an error message.

    Raises:
        PosconError: the table cannot be read, or names a case or a slice which there is not; or a
            reference that it names cannot be read.
    """
    found = read_slice_table(table, in_files=True)
    named = found.keys() | {re.sub(r"_frame\d+$", "", case) for case in found}
    counts: dict[str, int] = {}
    for case, reference in references.items():
        if case not in named:
            continue
        header = read_label_header(reference.path, spacing=spacing or reference.spacing)
        x, y, z, *frames = header.shape
        n = slice_geometry((x, y, z), header.affine).stack_shape[0]
        whole = not frames or reference.frame_index is not None
        names = [case] if whole else frame_names(case, frames[0])
        counts |= dict.fromkeys(names, n)
    check_slice_table(found, counts, where=str(table), what=what)
    return found


def only_labelled(maps: ClassMaps, labelled: LabelledOfCases | None) -> ClassMaps:
    """Class maps in which only the labelled slices of the reference count.

    Args:
        maps: prediction and reference.
        labelled: which slices count; None: all.
    """
    if labelled is None:
        return maps
    numbers: LabelledSlices = NONEMPTY
    if isinstance(labelled, Mapping):
        numbers = labelled.get(maps.case, ())
    stack = maps.geometry.to_stack(maps.reference)
    kept = only_slices(stack, numbers, backwards=maps.geometry.flips[0])
    return replace(
        maps,
        reference=maps.geometry.to_volume(kept),
        # a slice that a table names is labelled, also if it is empty
        empty_is_unlabelled=maps.empty_is_unlabelled and numbers == NONEMPTY,
    )
