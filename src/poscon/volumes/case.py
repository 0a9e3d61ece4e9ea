"""The cases of a data set, and the meaning of its label values."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from poscon.errors import PosconError
from poscon.files import FORMULA
from poscon.volumes.drawing import LabelSource
from poscon.volumes.series import Series, Source
from poscon.volumes.slabs import by_slabs, present_values

IGNORE = 255
"""What a voxel of a map of class indices has that is not labelled: no class, and no background."""
LONGEST_NAME = 200
"""Characters of the name of a class or of a channel."""
NO_ID = re.compile(r"[^\w.%-]+")
"""What the id of a case does not have: it is the name of files and folders."""
MOST_CLASSES = IGNORE - 1
"""Foreground classes: an index is stored in a byte."""


@dataclass(frozen=True)
class Channel:
    """The place of one image channel of a case.

    Attributes:
        file: the file with the intensities, or a DICOM series.
        index: number of the volume in a 4-D file, from 0, or None for a 3-D file.
        modality: ``"CT"`` or ``"MR"``, or None where the layout does not know.
    """

    file: Source
    index: int | None = None
    modality: str | None = None


@dataclass(frozen=True)
class Case:
    """One 3-D volume of a data set and, where there is one, its label map.

    Each volume of a 4-D time series is a case. Its ``frame_index`` is the number of the frame in
    the file. The volumes of a 4-D file with several image channels are one case. Its ``channels``
    lists them.

    Attributes:
        id: name that is unique in the data set and can be a file name.
        subject: the person (or animal) scanned. Several cases may share one. Folds and draws of
            labelled data go by subject, never by case.
        image: the file with the intensities, the first one if there are several; or a DICOM series.
        label: the file with the reference segmentation, a folder with one mask per organ, or DICOM
            objects, see :func:`poscon.volumes.label_maps.read_labels`; or None.
        frame: the name of the time point (``ED``, ``frame01``, ...), or None.
        frame_index: number of the frame in a 4-D ``image``, from 0, or None for a 3-D file.
        phase: the time of the frame as a share of the cycle that the series covers, from 0 to just
            below 1; None: the volume is no frame of a series, or of one of unknown length.
        spacing: the voxel size in mm along the file's axes, where the data set states it because
            the file's header is wrong; None: the header's is used.
        modality: ``"CT"`` or ``"MR"``, or None where the layout does not know.
        channels: the image channels where the data set has several, even if only one of them is
            chosen; empty: ``image`` is the only one.
        labelled_slices: numbers of the labelled slices, counted from 0 along the axis that is
            sliced, in the order of the file; None: all that the label map labels.
    """

    id: str
    subject: str
    image: Source
    label: LabelSource | None = None
    frame: str | None = None
    frame_index: int | None = None
    phase: float | None = None
    spacing: tuple[float, float, float] | None = None
    modality: str | None = None
    channels: tuple[Channel, ...] = ()
    labelled_slices: tuple[int, ...] | None = None

    @property
    def all_channels(self) -> tuple[Channel, ...]:
        """The image channels, at least one."""
        return self.channels or (Channel(self.image, self.frame_index, self.modality),)

    @property
    def image_files(self) -> tuple[Source, ...]:
        """The files of the image channels. Each is listed once."""
        return tuple(dict.fromkeys(channel.file for channel in self.all_channels))


@dataclass(frozen=True)
class LabelClass:
    """One foreground class: its name and the voxel values that mean it.

    Predictions are written with the first value. Further values are read as the same class, for a
    known mistake in a data set or for merged structures.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class LabelScheme:
    """The foreground classes of a data set in canonical order, and how voxel values map to them.

    Class index 0 is background. Class ``i + 1`` is ``classes[i]``. A scheme from a file or a user
    is made by :func:`label_scheme`, which checks it.

    Attributes:
        classes: foreground classes in canonical order.
        background: values that are read as background besides 0.
        background_above: if given, every value above it is background too.
        ignore: the value of voxels that are not labelled; see :meth:`with_ignore`.
    """

    classes: tuple[LabelClass, ...]
    background: tuple[int, ...] = ()
    background_above: int | None = None
    ignore: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label_class.name for label_class in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        """The value written for each foreground class."""
        return tuple(label_class.values[0] for label_class in self.classes)

    def to_classes(self, values: np.ndarray, *, where: str, ignorable: bool = False) -> np.ndarray:
        """Map voxel values to class indices.

        Args:
            values: label map of any shape. Floating point is accepted if every value is whole.
            where: name for an error message, usually the file.
            ignorable: whether ``--ignore-label`` could say that a value is not labelled.

        Returns:
            Class indices, uint8, an array of the same shape; 0 is background and ``IGNORE`` is not
            labelled.

        Raises:
            PosconError: a value is not whole or not declared.
        """
        present = present_values(values)
        whole = whole_values(present, where=where)
        index = {0: 0, **dict.fromkeys(self.background, 0)}
        for position, label_class in enumerate(self.classes, start=1):
            index.update(dict.fromkeys(label_class.values, position))
        if self.background_above is not None:
            index.update({int(v): 0 for v in whole if v > self.background_above})
        if self.ignore is not None:
            index[self.ignore] = IGNORE
        undeclared = [int(v) for v in whole if int(v) not in index]
        if undeclared:
            one = undeclared[0]
            could = ignorable and self.ignore is None and len(undeclared) == 1 and one > 0
            ignored = f", or with --ignore-label {one} that it is not labelled"
            raise PosconError(
                f"{where}: label value(s) {_listed(undeclared)} not declared; declared are "
                f"{_listed(sorted(index))}; state them with --labels"
                f"{ignored if could else ''}"
            )
        lookup = np.array([index[int(v)] for v in whole], dtype=np.uint8)
        return by_slabs(lambda part: lookup[np.searchsorted(present, part)], values, dtype=np.uint8)

    def with_ignore(self, value: int, *, where: str) -> "LabelScheme":
        """The same scheme, in which a value means that a voxel is not labelled.

        Args:
            value: value of these voxels.
            where: what to name in an error message: the file or the option.

        Raises:
            PosconError: the value means something else already, or is no label value.
        """
        label_value(abs(value), where=where)
        taken = {0: "background", **dict.fromkeys(self.background, "background")}
        for label_class in self.classes:
            taken.update(dict.fromkeys(label_class.values, f"the class {label_class.name!r}"))
        if value in taken:
            raise PosconError(
                f"{where}: the value {value} cannot mean 'not labelled', it is {taken[value]}; "
                "give another value, or other classes"
            )
        return replace(self, ignore=value)

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Map class indices to the data set's own label values, in the smallest integer type."""
        table = np.array([0, *self.values])
        smallest = np.result_type(*map(np.min_scalar_type, (table.min(), table.max())))
        table = table.astype(smallest)
        return by_slabs(lambda part: table[part], classes, dtype=smallest)


@dataclass(frozen=True)
class Dataset:
    """The content of a folder of scans.

    Attributes:
        layout: the name of the layout in which it was read.
        root: the folder.
        cases: every case, sorted by id.
        labels: meaning of the label values, or None where the layout does not state it.
        preparation: settings of ``poscon prepare`` that are usual for this layout or that its
            files need, e.g. ``{"spacing": 1.25}``. The user's own settings override them.
        notes: what a user should know about these files, one sentence each.
        channels: name of each image channel. Every case has as many.
        unused: files that the layout has looked into and does not use, each with its kind.
        passed_over: what the folder holds and was not read: one line and a count for each kind.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    labels: LabelScheme | None = None
    preparation: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("image",)
    unused: tuple[tuple[str, Path], ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def origins(self) -> tuple[str, ...]:
        """Where the cases of DICOM series are from, which their names do not say, one line each.

        The lines are for the terminal. Names of files may name patients, and are not written.
        """
        series = [case.image for case in self.cases if isinstance(case.image, Series)]
        return tuple(dict.fromkeys(f"{one.name}: {one}" for one in series))


LARGEST_VALUE = 2**31 - 1
"""The largest label value. Every format of a label map can hold it."""


def label_scheme(classes: Iterable[tuple[Any, Iterable[Any]]], *, where: str) -> LabelScheme:
    """Make a label scheme from a file or from a user's text, and check it.

    Args:
        classes: name and voxel values of each foreground class, in canonical order.
        where: name for an error message: the file or the option.

    Raises:
        PosconError: a name is empty or no text; a value is not a whole number from 1 to
            ``LARGEST_VALUE``; a name or a value occurs twice; a class has no value.
    """
    found: dict[str, LabelClass] = {}
    owner: dict[int, str] = {}
    for name, values in classes:
        name = check_name(name, f"{where}: a class")
        if name in found:
            raise PosconError(f"{where}: the class name {name!r} occurs twice; names must differ")
        numbers = tuple(label_value(value, where=f"{where}: class {name!r}") for value in values)
        if not numbers:
            raise PosconError(f"{where}: class {name!r} has no value; state at least one")
        for number in numbers:
            if number == 0:
                raise PosconError(f"{where}: class {name!r} has the value 0, which is background")
            if number in owner:
                raise PosconError(
                    f"{where}: the label value {number} occurs twice, in class {owner[number]!r} "
                    f"and in class {name!r}; a value means one class"
                )
            owner[number] = name
        found[name] = LabelClass(name, numbers)
    return LabelScheme(tuple(found.values()))


def check_name(name: Any, what: str) -> str:
    """Refuse a name that cannot be that of a class or of a channel.

    Args:
        name: the name.
        what: the file and what has the name, for the message.

    Returns:
        The name without spaces around it.

    Raises:
        PosconError: it is no printable text, is very long, or would be a formula in a table.
    """
    text = name.strip() if isinstance(name, str) else ""
    if not 0 < len(text) <= LONGEST_NAME or not text.isprintable() or text[0] in FORMULA:
        raise PosconError(
            f"{what} has the name {name!r:.100}; a name is printable text of at most "
            f"{LONGEST_NAME} characters, and does not begin with one of {' '.join(FORMULA)}"
        )
    return text


def label_value(value: Any, *, where: str) -> int:
    """Turn a number or its text into a label value. 0 is background.

    Raises:
        PosconError: it is not a whole number from 0 to ``LARGEST_VALUE``.
    """
    number = None
    if isinstance(value, str) and re.fullmatch(r"\s*\+?[0-9]{1,10}\s*", value):
        number = int(value)
    elif isinstance(value, int | float | np.integer) and not isinstance(value, bool):
        number = int(value) if value == value // 1 else None  # false for NaN and infinity
    if number is None or not 0 <= number <= LARGEST_VALUE:
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
        raise PosconError(
            f"{where}: {shown} is no whole number from 0 to {LARGEST_VALUE}; "
            "a label value must be one"
        )
    return number


def discovered_scheme(values: Iterable[int], *, where: str) -> LabelScheme:
    """Make every value except 0 a class ``class_VALUE``, in the order of the values.

    Raises:
        PosconError: a value cannot be a label value, see :func:`label_scheme`.
    """
    foreground = sorted(set(values) - {0})
    return label_scheme(((f"class_{value}", (value,)) for value in foreground), where=where)


def whole_values(values: np.ndarray, *, where: str) -> np.ndarray:
    """Turn label values into int64.

    Raises:
        PosconError: a value is not whole.
    """
    with np.errstate(invalid="ignore"):  # NaN and infinity are refused below
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        odd = float(values[whole != values][0])
        raise PosconError(
            f"{where}: label values must be whole numbers, found {odd!r}; "
            "is this an image, or was the label map resampled with interpolation?"
        )
    return whole


def parse_labels(text: str) -> LabelScheme:
    """Read a label scheme from a text such as ``"1=RV,2=MYO,3=LV"``.

    A class with several values is written ``420+421=LA``. The classes have the order of the text.

    Raises:
        PosconError: the text does not have that form, or its scheme is impossible.
    """
    classes = []
    for part in text.split(","):
        values, separator, name = part.partition("=")
        numbers = [value.strip() for value in values.split("+")]
        written = all(re.fullmatch("[0-9]+", number) and int(number) for number in numbers)
        if not separator or not name.strip() or not written:
            raise PosconError(
                f"--labels: cannot read {part.strip()!r}; write VALUE=NAME pairs such as "
                "1=RV,2=MYO,3=LV (0 is background and is not listed)"
            )
        classes.append((name, numbers))
    return label_scheme(classes, where="--labels")


def _listed(values: Sequence[int], most: int = 10) -> str:
    text = ", ".join(map(str, values[:most]))
    return text if len(values) <= most else f"{text}, ... ({len(values)} in all)"
