"""Predicted label maps, each with its reference."""

from dataclasses import dataclass, replace
from pathlib import Path

from poscon.errors import PosconError
from poscon.volumes.affine import Spacing, apart_mm, same_place
from poscon.volumes.case import LabelScheme
from poscon.volumes.drawing import Drawing, LabelSource, files_of, is_object
from poscon.volumes.label_maps import on_grid, read_label_header, read_labels
from poscon.volumes.layouts import is_dataset, read_dataset
from poscon.volumes.layouts.base import label_files, label_stem
from poscon.volumes.scan import Scan


@dataclass(frozen=True)
class Reference:
    """A reference label map; ``frame_index`` and ``spacing`` as in `poscon.volumes.case.Case`."""

    path: LabelSource
    subject: str
    frame_index: int | None = None
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Pair:
    """A predicted label map and its reference.

    Attributes:
        id: the case id: the file name of the prediction without suffix.
        path: the prediction.
        reference: the reference.
    """

    id: str
    path: LabelSource
    reference: Reference

    def read(
        self,
        scheme: LabelScheme | None,
        spacing: Spacing | None,
        of_predictions: LabelScheme | None = None,
    ) -> tuple[Scan, Scan]:
        """Read prediction and reference, and check that they lie on the same grid.

        Args:
            scheme: meaning of the reference's values; None: they stay as they are.
            spacing: voxel size in mm along the files' axes, if the user states it.
            of_predictions: meaning of the prediction's values, for a DICOM object.

        Raises:
            PosconError: a file cannot be used, or shape or affine differ.
        """
        stated = spacing or self.reference.spacing
        named = of_predictions if isinstance(self.path, Drawing) else None
        prediction = read_labels(self.path, named, spacing=stated)
        reference = read_labels(self.reference.path, scheme, spacing=stated)
        data = reference.data
        if data.ndim == 4 and prediction.data.ndim == 3 and self.reference.frame_index is not None:
            data = data[..., self.reference.frame_index]
        if prediction.data.shape != data.shape:
            raise PosconError(
                f"{self.path}: shape {prediction.data.shape} is not that of its reference "
                f"{self.reference.path}, {data.shape}"
            )
        if not same_place(data.shape, prediction.affine, reference.affine):
            apart = apart_mm(data.shape, prediction.affine, reference.affine)
            raise PosconError(
                f"{self.path}: does not lie where its reference {self.reference.path} does; the "
                f"affines differ by up to {apart:.3g} mm at the corners"
            )
        return prediction, Scan(reference.path, data, reference.affine, reference.header)


def frame_names(case: str, n: int) -> list[str]:
    """The case id of each frame of a 4-D label map: ``CASE_frame01``, ``CASE_frame02``, ...

    Args:
        case: the case id of the file.
        n: number of frames.
    """
    width = max(2, len(str(n)))
    return [f"{case}_frame{number:0{width}d}" for number in range(1, n + 1)]


def find_label_maps(place: Path) -> dict[str, Path]:
    """The label maps of a file or folder, DICOM objects too, by file name without suffix.

    Raises:
        PosconError: there is none, or two have the same name.
    """
    if place.is_file():
        return {label_stem(place): place}
    if not place.is_dir():
        raise PosconError(f"{place}: no such file or folder")
    maps: dict[str, Path] = {}
    for path in label_files(place):
        if label_stem(path) in maps:
            raise PosconError(f"{path}: {maps[label_stem(path)].name} has the same name; keep one")
        maps[label_stem(path)] = path
    if not maps:
        raise PosconError(f"{place}: no label map in this folder")
    return maps


def find_references(
    place: Path, predicted: dict[str, Path], layout: str | None = None, **options: int | str | None
) -> tuple[dict[str, Reference], LabelScheme | None]:
    """The references by case id, and the meaning of their values if they form a data set.

    Args:
        place: a label map, a folder of label maps, or a data set (a folder or a CSV file).
        predicted: the predictions by case id.
        layout: layout of the data set; None detects it.
        options: how the data set is read, see :func:`poscon.volumes.layouts.read_dataset`.

    Raises:
        PosconError: there is no such place, or an option has no effect there.
    """
    given = [name.replace("_", "-") for name, value in options.items() if value is not None]
    if place.is_file() and not is_dataset(place):
        for option in given if layout is None else ["layout"]:
            raise PosconError(f"--{option}: has no effect, {place} is one file, not a data set")
        if len(predicted) > 1:
            raise PosconError(f"{place}: one reference for {len(predicted)} predictions")
        # A lone reference belongs to the lone prediction, whatever their names.
        (stem,) = predicted
        return {stem: Reference(place, stem)}, None
    if not is_dataset(place):
        raise PosconError(f"{place}: no such file or folder")
    flat = place.is_dir() and any(
        label_stem(path) in predicted
        # two DICOM objects need the series, on whose grid they lie
        and not (is_object(path) and is_object(predicted[label_stem(path)]))
        for path in label_files(place)
    )
    if layout is None and flat and not _has_scans(place, predicted):
        for option in given:
            raise PosconError(f"--{option}: has no effect, {place} is a folder of label maps")
        return {stem: Reference(p, stem) for stem, p in find_label_maps(place).items()}, None
    dataset = read_dataset(place, layout, **options)
    references = {
        case.id: Reference(case.label, case.subject, case.frame_index, case.spacing)
        for case in dataset.cases
        if case.label is not None
    }
    return references, dataset.labels


def _has_scans(place: Path, predicted: dict[str, Path]) -> bool:
    """Whether a folder has scans beside their label maps, so that a file may be a scan."""
    try:
        cases = read_dataset(place, None).cases
    except PosconError:  # label maps alone are no data set that can be read
        return False
    return any(
        case.label is not None
        and isinstance(case.image, Path)
        and case.image.parent == place
        and label_stem(case.image) in predicted
        for case in cases
    )


def make_pairs(predicted: dict[str, Path], found: dict[str, Reference], place: Path) -> list[Pair]:
    """Pair the predictions with their references. Those without one are left out.

    Args:
        predicted: the predictions by case id.
        found: the references by case id.
        place: where the references are, for an error message.

    Raises:
        PosconError: there is no pair, or a prediction is its own reference.
    """
    pairs = [_pair(stem, path, found[stem]) for stem, path in predicted.items() if stem in found]
    if not pairs:
        stem, path = next(iter(predicted.items()))
        raise PosconError(
            f"{path}: no reference named {stem!r} in {place}, and none for another prediction; "
            "give a folder with label maps that have the names of the cases"
        )
    for pair in pairs:
        ours, theirs = (
            {file.resolve() for file in files_of(one)} for one in (pair.path, pair.reference.path)
        )
        if ours & theirs:
            raise PosconError(f"{pair.path}: prediction and reference are the same file")
    return pairs


def _pair(name: str, path: Path, reference: Reference) -> Pair:
    """A prediction and its reference. A DICOM object is read on the grid of the other one.

    Raises:
        PosconError: both are DICOM objects, and nothing says on which grid to read them.
    """
    if is_object(path) and is_object(reference.path):
        raise PosconError(
            f"{path}: neither it nor its reference {reference.path} says which grid the series "
            "has; give the folder of the series as the references"
        )
    return Pair(
        name,
        _on_grid_of(path, reference.path),
        replace(reference, path=_on_grid_of(reference.path, path)),
    )


def _on_grid_of(path: LabelSource, other: LabelSource) -> LabelSource:
    """A DICOM object on the grid of another label map; anything else as it is."""
    if not is_object(path):
        return path
    header = read_label_header(other)
    return on_grid(path, header.shape, header.affine)
