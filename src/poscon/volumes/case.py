"""What a data set says of itself: its cases, and what its label values mean."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from poscon.errors import PosconError

IGNORE = 255
"""What a voxel of a map of class indices has that is not labelled: no class, and no background."""
MOST_CLASSES = IGNORE - 1
"""Foreground classes: an index is stored in a byte."""


@dataclass(frozen=True)
class Channel:
    """Where one image channel of a case is.

    Attributes:
        file: the file with the intensities.
        index: which volume of a 4-D file it is, or None for a 3-D file.
        modality: ``"CT"`` or ``"MR"``, or None where the layout does not know.
    """

    file: Path
    index: int | None = None
    modality: str | None = None


@dataclass(frozen=True)
class Case:
    """One 3-D volume of a data set and, where there is one, its label map.

    The volumes of a 4-D time series are cases of their own: ``frame_index`` says which frame of
    the file is meant. The volumes of a 4-D file with several image channels are one case:
    ``channels`` lists them.

    Attributes:
        id: unique in the data set, usable as a file name.
        subject: the person (or animal) scanned; several cases may share one. Folds and draws of
            labelled data go by subject, never by case.
        image: the file with the intensities; of several files the first.
        label: the file with the reference segmentation, or a folder with one mask per organ, see
            :func:`poscon.volumes.label_maps.read_labels`; or None.
        frame: the name of the time point (``ED``, ``frame01``, ...), or None.
        frame_index: which frame of a 4-D ``image`` this is, or None for a 3-D file.
        spacing: the voxel size in mm along the file's axes where the data set states it because
            the file's header is wrong, else None: the header is believed.
        modality: ``"CT"`` or ``"MR"``, or None where the layout does not know.
        channels: the image channels where the data set has several, also if only one of them is
            chosen; empty: ``image`` is the only one.
        labelled_slices: numbers of the labelled slices, counted from 0 along the axis that is
            sliced, in the order of the file; None: all that the label map labels.
    """

    id: str
    subject: str
    image: Path
    label: Path | None = None
    frame: str | None = None
    frame_index: int | None = None
    spacing: tuple[float, float, float] | None = None
    modality: str | None = None
    channels: tuple[Channel, ...] = ()
    labelled_slices: tuple[int, ...] | None = None

    @property
    def all_channels(self) -> tuple[Channel, ...]:
        """The image channels, one at least."""
        return self.channels or (Channel(self.image, self.frame_index, self.modality),)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The files of the image channels, each once."""
        return tuple(dict.fromkeys(channel.file for channel in self.all_channels))


@dataclass(frozen=True)
class LabelClass:
    """One foreground class: its name and the voxel values that mean it.

    The first value is the one that is written when a prediction is handed back; further values
    are read as the same class (a known mistake in a data set, or structures merged).
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class LabelScheme:
    """The foreground classes of a data set in canonical order, and how voxel values map to them.

    Class index 0 is background; class ``i + 1`` is ``classes[i]``. What comes from a file or a
    user goes through :func:`label_scheme`, which checks it.

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

    def to_classes(self, values: np.ndarray, *, where: str) -> np.ndarray:
        """Map voxel values to class indices.

        Args:
            values: label map of any shape; floating point is accepted if every value is whole.
            where: what to name in an error message, usually the file.

        Returns:
            Array of the same shape, uint8, 0 = background, ``IGNORE`` = not labelled.

        Raises:
            PosconError: a value is not whole or not declared.
        """
        present = np.unique(values)
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
            raise PosconError(
                f"{where}: label value(s) {_listed(undeclared)} not declared; declared are "
                f"{_listed(sorted(index))}; state them with --labels"
            )
        lookup = np.array([index[int(v)] for v in whole], dtype=np.uint8)
        return lookup[np.searchsorted(present, values)]

    def with_ignore(self, value: int, *, where: str) -> "LabelScheme":
        """The same scheme, in which a value means that a voxel is not labelled.

        Args:
            value: of these voxels.
            where: what to name in an error message: the file or the option.

        Raises:
            PosconError: the value means something else already.
        """
        taken = {0: "background", **dict.fromkeys(self.background, "background")}
        for label_class in self.classes:
            taken.update(dict.fromkeys(label_class.values, f"the class {label_class.name!r}"))
        if value in taken:
            raise PosconError(
                f"{where}: the value {value} cannot mean 'not labelled', it is {taken[value]}; "
                "give another value, or other classes with --labels"
            )
        return replace(self, ignore=value)

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Map class indices back to the data set's own label values (smallest integer type)."""
        table = np.array([0, *self.values])
        smallest = np.result_type(*map(np.min_scalar_type, (table.min(), table.max())))
        return table.astype(smallest)[classes]


@dataclass(frozen=True)
class Dataset:
    """A folder of scans, understood.

    Attributes:
        layout: the name of the layout it was read as.
        root: the folder.
        cases: every case, sorted by id.
        labels: what the label values mean, or None where the layout does not say (or has none).
        preparation: settings of ``poscon prepare`` that this layout's field uses or that its
            files make necessary, e.g. ``{"spacing": 1.25}``; the user's own settings override them.
        notes: what a user should know of these files, one sentence each.
        channels: name of each image channel; every case has as many.
        passed_over: what the folder holds and was not read, counted, one line for each kind.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    labels: LabelScheme | None = None
    preparation: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("image",)
    passed_over: tuple[str, ...] = ()


LARGEST_VALUE = 2**31 - 1
"""The largest label value: what every format of a label map can hold."""


def label_scheme(classes: Iterable[tuple[Any, Iterable[Any]]], *, where: str) -> LabelScheme:
    """The one way from what a file or a user says of label values to a label scheme.

    Args:
        classes: of each foreground class its name and its voxel values, in canonical order.
        where: what to name in an error message: the file or the option.

    Raises:
        PosconError: a name is empty or no text; a value is not a whole number from 1 to
            ``LARGEST_VALUE``; a name or a value occurs twice; a class has no value.
    """
    found: dict[str, LabelClass] = {}
    owner: dict[int, str] = {}
    for name, values in classes:
        if not isinstance(name, str) or not name.strip() or not name.strip().isprintable():
            raise PosconError(f"{where}: a class has the name {name!r}; a name is printable text")
        name = name.strip()
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


def label_value(value: Any, *, where: str) -> int:
    """A label value as a number, from a number or its text; 0 is background.

    Raises:
        PosconError: it is not a whole number from 0 to ``LARGEST_VALUE``.
    """
    number = None
    if isinstance(value, str) and re.fullmatch(r"\s*\+?[0-9]{1,10}\s*", value):
        number = int(value)
    elif isinstance(value, int | float | np.integer) and not isinstance(value, bool):
        number = int(value) if value == value // 1 else None  # NaN and infinity are not equal
    if number is None or not 0 <= number <= LARGEST_VALUE:
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
        raise PosconError(
            f"{where}: {shown} is no whole number from 0 to {LARGEST_VALUE}, as a label value is"
        )
    return number


def discovered_scheme(values: Iterable[int], *, where: str) -> LabelScheme:
    """Every value but 0 as a class ``class_VALUE``, by rising value.

    Raises:
        PosconError: a value cannot be a label value, see :func:`label_scheme`.
    """
    foreground = sorted(set(values) - {0})
    return label_scheme(((f"class_{value}", (value,)) for value in foreground), where=where)


def whole_values(values: np.ndarray, *, where: str) -> np.ndarray:
    """Label values as int64.

    Raises:
        PosconError: one is not whole.
    """
    with np.errstate(invalid="ignore"):  # NaN and infinity are not whole, and said to be
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        odd = float(values[whole != values][0])
        raise PosconError(
            f"{where}: label values must be whole numbers, found {odd!r}; "
            "is this an image, or was the label map resampled with interpolation?"
        )
    return whole


def parse_labels(text: str) -> LabelScheme:
    """Read a label scheme from ``"1=RV,2=MYO,3=LV"``; several values for a class: ``420+421=LA``.

    The canonical class order is the order of writing.

    Raises:
        PosconError: the text is not of that form, or says something impossible.
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
