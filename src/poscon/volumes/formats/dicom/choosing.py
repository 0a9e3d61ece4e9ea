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
    "ScanningSequence",
    "ImageType",
    "Modality",
    "BodyPartExamined",
    "ConvolutionKernel",
    "SeriesNumber",
    "EchoTime",
    "RepetitionTime",
    "SliceThickness",
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
    alternatives = pattern.lower().replace("[", "[[]").split("|")  # a bracket is only a bracket
    values, found = [], []
    for stack in stacks:
        value, *others = _values(stack, keyword)
        values.append(value)
        fits = [
            any(fnmatchcase(one.lower(), alternative) for alternative in alternatives)
            for one in (value, *others)
        ]
        if any(fits) and not all(fits):
            raise PosconError(
                f"{_OPTION} {condition}: fits a part of {stack.series} only; choose by an "
                "attribute that all its images share"
            )
        if all(fits):
            found.append(stack)
    if not found:
        raise PosconError(
            f"{_OPTION} {condition}: none of the {len(stacks)} series of {root} fits; change the "
            f"pattern ({_told(keyword, values)})"
        )
    return found


def _values(stack: Stack, keyword: str) -> list[str]:
    """The different texts that an attribute has in the first, the second and the last image.

    Frames of one place follow each other, so that these show echoes and other kinds too.
    """
    images = stack.images
    files = dict.fromkeys(image.piece.file for image in (*images[:2], images[-1]))
    return list(dict.fromkeys(read_value(file, keyword) for file in files))


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
