"""The table of ``poscon evaluate``, for a list whose worst cases come first."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from poscon.errors import PosconError
from poscon.files import parse_json


def read_dice(path: Path) -> dict[str, dict[str, float]]:
    """Dice by case and class, as far as it was measured.

    Args:
        path: what ``poscon evaluate`` wrote, as JSON or CSV.

    Raises:
        PosconError: it is not that.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = parse_json(text)["cases"] if path.suffix == ".json" else _rows(text)
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            if row["dice"] not in (None, ""):  # such a class was not measured
                found[str(row["case"])][str(row["class"])] = float(row["dice"])
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise PosconError(
            f"{path}: cannot be read as results of poscon evaluate, JSON or CSV"
        ) from error
    if not found:
        raise PosconError(f"{path}: names no case with a Dice")
    return dict(found)


def has_dice(path: Path) -> bool:
    """Whether a file is what ``poscon evaluate`` wrote."""
    try:
        return bool(read_dice(path))
    except PosconError:
        return False


def mean_dice(of_classes: Mapping[str, float] | None) -> float:
    """Mean Dice over the measured classes of a case; infinite for a case without any."""
    return float(np.mean(list(of_classes.values()))) if of_classes else math.inf


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
