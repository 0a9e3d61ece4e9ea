"""DICOM series in a folder: unsorted, of any number of patients, other files among them.

Each series is read as :mod:`poscon.volumes.formats.dicom.stacks` says. Cases and subjects are
numbered in the order of the paths of the files. What says who was scanned tells patients apart, and
goes no further. The label map of a series is a DICOM object that names its images, SEG or RTSTRUCT,
anywhere in the folder. Or it is a file beside the folder that holds the series alone:
``FOLDER_seg.nii.gz`` beside ``FOLDER``, or in another format.
"""

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from poscon.errors import PosconError
from poscon.volumes.case import Case, Dataset
from poscon.volumes.drawing import Drawing, LabelSource
from poscon.volumes.label_maps import drawn_scheme, fraction_notes
from poscon.volumes.layouts.base import Layout, refuse_channel, scan_files, split_frames
from poscon.volumes.layouts.tree import walk
from poscon.volumes.scan import scan_stem, scan_suffix
from poscon.volumes.series import OnGap, Series, is_dicom

if TYPE_CHECKING:  # commands that read no DICOM do not need pydicom
    from poscon.volumes.formats.dicom.headers import Image
    from poscon.volumes.formats.dicom.objects import Object
    from poscon.volumes.formats.dicom.stacks import Stack

NAME = "dicom"
LABEL = "_seg"
_COPY = "copies of files that are read"
_LEFT_OUT = "file(s) of series that --series does not choose"
_ORPHAN = "SEG or RTSTRUCT object(s) of no series that is read"


def matches(root: Path) -> bool:
    scans = len(scan_files(root, "**/*"))
    found = 0
    for path in walk(root).files:
        found += not scan_suffix(path) and is_dicom(path)
        if found >= max(1, scans):
            return True
    return False


def read(
    root: Path,
    channel: int | str | None,
    *,
    on_gap: str = "refuse",
    case_name: str | None = None,
    series: str | None = None,
) -> Dataset:
    """Read the series of a folder.

    Args:
        root: the folder.
        channel: must be None.
        on_gap: see :func:`poscon.volumes.formats.dicom.stacks.make_stacks`.
        case_name: keyword of the DICOM attribute by which cases are named, such as ``PatientID``;
            None: they are numbered.
        series: which series are read, see :func:`poscon.volumes.formats.dicom.choosing.fitting`;
            None: all. The numbers of cases are those of all series, whatever is read.

    Raises:
        PosconError: a header cannot be read, the attribute does not name every series, or no series
            is to be read.
    """
    from poscon.volumes.formats.dicom.choosing import fitting
    from poscon.volumes.formats.dicom.stacks import make_stacks

    refuse_channel(channel, NAME)
    if on_gap not in get_args(OnGap):
        raise PosconError(f"--on-gap {on_gap}: must be {', '.join(get_args(OnGap))}")
    images, objects, unused = _images(root)
    stacks, left = make_stacks(images, cast("OnGap", on_gap))
    unused += [(kind, image.piece.file) for kind, images in left.items() for image in images]
    if not stacks:
        unused += [(_ORPHAN, one.file) for one in objects]
    if unused and not stacks:
        kinds = Counter(kind for kind, _ in dict.fromkeys(unused))
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        raise PosconError(
            f"{root}: no DICOM series that makes a volume, but {listed}; give the folder of "
            "a series"
        )
    patients = list(dict.fromkeys(stack.patient for stack in stacks))
    subjects = dict(zip(patients, _numbers("patient", len(patients)), strict=True))
    every, most = stacks, max((stack.volume for stack in stacks), default=0)
    if series is not None:
        stacks = fitting(stacks, series, root)
    chosen = {image.piece.file for stack in stacks for image in stack.images}
    files = (image.piece.file for stack in every for image in stack.images)
    unused += [(_LEFT_OUT, file) for file in files if file not in chosen]
    names = [_numbered(s, most) for s in stacks] if case_name is None else _named(stacks, case_name)
    labels = _labels(root, every, objects, {stack.series.place for stack in stacks})
    drawings = [label for label in labels.values() if isinstance(label, Drawing)]
    used = {file for drawing in drawings for file in drawing.files}
    unused += [(_ORPHAN, one.file) for one in objects if one.file not in used]
    cases: list[Case] = []
    for name, stack in zip(names, stacks, strict=True):
        image = replace(stack.series, name=name)
        label = labels.get(stack.series.place)
        case = Case(name, subjects[stack.patient], image, label, modality=image.modality)
        frames = [case] if image.fault is not None else split_frames(case)
        if isinstance(label, Path) and len(frames) > 1:
            raise PosconError(
                f"{label}: the label map of a series with {len(frames)} frames; poscon cannot know "
                "which of them is labelled: write that frame and its label map as NIfTI"
            )
        cases += frames
    return Dataset(
        NAME,
        root,
        tuple(cases),
        drawn_scheme(drawings, where=str(root)) if len(drawings) == len(labels) else None,
        notes=(*_notes(names, stacks), *_label_notes(cases)),
        unused=tuple(dict.fromkeys(unused)),
    )


def only_series(folder: Path) -> Series:
    """The only DICOM series of a folder.

    Raises:
        PosconError: there is none, or there are several.
    """
    dataset = read(folder, None)
    found = [case.image for case in dataset.cases if isinstance(case.image, Series)]
    series = list(dict.fromkeys(found))
    if len(series) != 1:
        raise PosconError(f"{folder}: holds {len(series)} DICOM series; give the folder of one")
    return series[0]


def _images(root: Path) -> tuple[list["Image"], list["Object"], list[tuple[str, Path]]]:
    """The slices below a folder, the objects with structures, and other DICOM files by kind."""
    from poscon.volumes.formats.dicom.headers import check_name, read_images
    from poscon.volumes.formats.dicom.objects import read_object

    images: list[Image] = []
    objects: list[Object] = []
    unused: list[tuple[str, Path]] = []
    first: dict[str, Path] = {}
    for path in walk(root).files:
        if scan_suffix(path):
            continue
        if not is_dicom(path):
            check_name(path)
            continue
        found = read_images(path)
        if isinstance(found, str):
            drawn = read_object(path)
            if drawn is None:
                unused.append((found, path))
            elif any(filecmp.cmp(path, one.file, shallow=False) for one in objects):
                unused.append((_COPY, path))
            else:
                objects.append(drawn)
            continue
        earlier = first.setdefault(found[0].instance, path)
        if earlier != path and filecmp.cmp(earlier, path, shallow=False):
            unused.append((_COPY, path))
        else:
            images += found
    return images, objects, unused


def _numbered(stack: "Stack", most: int) -> str:
    """The name of a case: the number of its volume, and that of its part if it has several."""
    name = _numbers("case", most)[stack.volume - 1]
    return name if stack.part is None else f"{name}_{stack.part}"


def _numbers(word: str, count: int) -> list[str]:
    """``case001``, ``case002`` and so on."""
    width = max(3, len(str(count)))
    return [f"{word}{number:0{width}d}" for number in range(1, count + 1)]


def _named(stacks: Sequence["Stack"], keyword: str) -> list[str]:
    """Names of cases by an attribute of their files; equal ones are numbered."""
    from poscon.volumes.formats.dicom.headers import check_keyword, read_value

    check_keyword(keyword, "--case-name", example="PatientID")
    values = []
    for stack in stacks:
        value = read_value(stack.images[0].piece.file, keyword)
        if not value:
            raise PosconError(
                f"{stack.series}: has no {keyword}, by which --case-name names the cases; give "
                "another attribute"
            )
        values.append(value)
    count, seen = Counter(values), Counter[str]()
    names = []
    for value in values:
        seen[value] += 1
        names.append(value if count[value] == 1 else f"{value}_{seen[value]}")
    return names


def _labels(
    root: Path, stacks: Sequence["Stack"], objects: Sequence["Object"], chosen: AbstractSet[str]
) -> dict[str, LabelSource]:
    """The label map of each chosen series that has one, by the place of the series.

    Args:
        root: the folder.
        stacks: all series, as a label map may belong to any of them.
        objects: the objects with structures.
        chosen: the places of the series that are read.
    """
    from poscon.volumes.formats.dicom.matching import match

    of_folder: dict[Path, list[Stack]] = defaultdict(list)
    for stack in stacks:
        for folder in {image.piece.file.parent for image in stack.images}:
            of_folder[folder].append(stack)
    drawn = match(objects, stacks)
    labels: dict[str, LabelSource] = {place: drawn[place] for place in drawn if place in chosen}
    for path in scan_files(root, "**/*"):
        stem = scan_stem(path)
        folder = path.with_name(stem.removesuffix(LABEL))
        if not stem.endswith(LABEL):
            continue
        if folder not in of_folder:
            raise PosconError(
                f"{path}: a label map without its image ({folder.name} holds no series beside it); "
                "add the image or remove the label map"
            )
        places = [stack.series.place for stack in of_folder[folder]]
        if not chosen & set(places):
            continue
        if len(places) > 1:
            raise PosconError(
                f"{path}: may be the label map of any of the {len(places)} series in "
                f"{folder}; give each series a folder of its own"
            )
        if places[0] in labels:
            raise PosconError(
                f"two files for the label map of {places[0]}: {labels[places[0]]} and {path}; "
                "rename or remove one"
            )
        labels[places[0]] = path
    return labels


def _label_notes(cases: Sequence[Case]) -> Iterable[str]:
    """What a user should know of the DICOM objects with structures."""
    drawn = {case.id: case.label for case in cases if isinstance(case.label, Drawing)}
    yield from fraction_notes(drawn)
    for structure in dict.fromkeys(name for label in drawn.values() for name in label.names):
        without = [name for name, label in drawn.items() if structure not in label.names]
        if without:
            yield (
                f"{len(without)} of {len(drawn)} label map(s) have no segment {structure!r} "
                f"({', '.join(without)}): there it counts as background."
            )


def _notes(names: Sequence[str], stacks: Sequence["Stack"]) -> Iterable[str]:
    """What a user should know of how the series were read."""
    tilted = [
        f"{name} {stack.tilt:.1f} degrees"
        for name, stack in zip(names, stacks, strict=True)
        if stack.tilt
    ]
    if tilted:
        yield (
            f"{len(tilted)} scan(s) have a gantry tilt ({', '.join(tilted)}): the affine is "
            "sheared and is kept so."
        )
    mixed = [name for name, stack in zip(names, stacks, strict=True) if stack.series.mixes]
    if mixed:
        yield f"{len(mixed)} scan(s) have interpolated slices ({', '.join(mixed)})."


LAYOUT = Layout(
    NAME,
    "DICOM series in any folders, at least as many files as scans in other formats; label maps as "
    "SEG or RTSTRUCT objects, or FOLDER_seg.nii.gz beside the FOLDER of a series",
    matches,
    read,
    options=("on_gap", "case_name", "series"),
)
