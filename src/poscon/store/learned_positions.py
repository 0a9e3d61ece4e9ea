"""Positions that were learned from the images of a store, in a file beside its manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from poscon.errors import PosconError
from poscon.store.store import CaseRecord, Store, write_json

POSITIONS = "positions.json"
VERSION = 1


class LearnedPosition(BaseModel):
    """Where the slices of a case lie on the axis that all cases share.

    Attributes:
        first, last: coordinates in mm of the first and the last slice as stored. The others lie
            between them at equal steps.
        against: whether the slices run against those of most cases; then ``last`` is less.
        clearness: how clear the direction is, 0 to 1.
        determined: whether the images say where the case lies. If not, it was given the place that
            most cases have.
        pixels_sha256: of the scan, as in its record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: float
    last: float
    against: bool
    clearness: float
    determined: bool
    pixels_sha256: str

    def coordinates(self, n_slices: int) -> np.ndarray:
        """(n_slices,) float64, the coordinate of each slice, mm."""
        return np.linspace(self.first, self.last, n_slices)


class LearnedPositions(BaseModel):
    """The content of ``positions.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    poscon_version: str
    seed: int
    cases: Mapping[str, LearnedPosition]

    def against(self) -> list[str]:
        """Cases whose slices run against those of most cases."""
        return [case for case, position in self.cases.items() if position.against]


def write_positions(store: Store, positions: LearnedPositions) -> Path:
    """Write ``positions.json`` of a store, complete or not at all."""
    path = Path(store.path) / POSITIONS
    write_json(path, positions.model_dump(mode="json"))
    return path


def read_positions(store: Store) -> LearnedPositions | None:
    """The learned positions of a store, or None if it has none.

    Raises:
        PosconError: the file is damaged, of another version, or of other scans.
    """
    content = store.side_file(POSITIONS)
    where = f"{store.path}/{POSITIONS}"
    if content is None:
        return None
    try:
        positions = LearnedPositions.model_validate_json(content)
    except ValidationError as error:
        raise PosconError(
            f"{where}: damaged, or of another version of poscon; run poscon align {store.path} again"
        ) from error
    for case in store.cases:
        _check(positions, case, where, store)
    return positions


def _check(positions: LearnedPositions, case: CaseRecord, where: str, store: Store) -> None:
    known = positions.cases.get(case.id)
    if known is None or known.pixels_sha256 != case.pixels_sha256:
        raise PosconError(
            f"{where}: case {case.id} is missing or another scan; run poscon align {store.path} "
            "again"
        )
