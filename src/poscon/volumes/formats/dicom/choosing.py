"""Which series of an export are read: those of which an attribute fits a pattern."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from poscon.errors import PosconError
from poscon.files import printable
from poscon.volumes.formats.dicom.headers import check_keyword, read_value
from poscon.volumes.formats.dicom.stacks import Stack

_OPTION = "--series"
_HOW = (
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "ImageType",
    "Modality",
    "BodyPartExamined",
    "ConvolutionKernel",
    "SeriesNumber",
)
"""Attributes that say how somebody was scanned, and not who. Their values may be printed."""
_MOST = 20


def fitting(stacks: Sequence[Stack], condition: str, root: Path) -> list[Stack]:
    """The stacks of the series that fit a condition.

    Args:
        stacks: the stacks of a folder.
        condition: ``KEYWORD=PATTERN``, such as ``SeriesDescription=*t2*|*haste*``. In a pattern
            ``*`` stands for any text, ``?`` for any sign, and ``|`` is between alternatives. Upper
            and lower case are the same. A series that lacks the attribute has an empty text.
        root: the folder, for messages.

    Raises:
        PosconError: it is no condition, DICOM has no such attribute, or no series fits.
    """
    keyword, _, pattern = condition.partition("=")
    if not keyword or not pattern:
        raise PosconError(
            f"{_OPTION} {condition}: must be KEYWORD=PATTERN, such as SeriesDescription=*t2*"
        )
    check_keyword(keyword, _OPTION, example="SeriesDescription")
    alternatives = pattern.lower().split("|")
    values = [read_value(stack.images[0].piece.file, keyword) for stack in stacks]
    found = [
        stack
        for stack, value in zip(stacks, values, strict=True)
        if any(fnmatchcase(value.lower(), alternative) for alternative in alternatives)
    ]
    if not found:
        raise PosconError(
            f"{_OPTION} {condition}: none of the {len(stacks)} series of {root} fits; change the "
            f"pattern ({_told(keyword, values)})"
        )
    return found


def _told(keyword: str, values: Sequence[str]) -> str:
    """What the values of an attribute are, as far as they do not say who was scanned."""
    if keyword not in _HOW:
        return f"values of {keyword} may say who was scanned, and are not printed"
    count = Counter(printable(value) for value in values if value)
    told = [f"{value!r} in {n} series" for value, n in count.most_common(_MOST)]
    if len(count) > _MOST:
        told.append(f"{len(count) - _MOST} other values")
    if without := values.count(""):
        told.append(f"none in {without} series")
    return f"{keyword} is {', '.join(told)}"
