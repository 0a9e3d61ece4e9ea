"""``poscon suggest``: which slices or subjects to label next, and the files to label them in."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import check_outside, check_writable, complete
from poscon.models import FeatureExtractor, Model
from poscon.pictures.suggestion import draw_suggestion
from poscon.positions import POSITIONS
from poscon.progress import console
from poscon.seeds import stream
from poscon.store.manifest import write_json
from poscon.store.names import Names
from poscon.store.selection import choose_cases
from poscon.store.store import Store
from poscon.suggestion import find_strategy
from poscon.suggestion.base import Choice, Strategy
from poscon.suggestion.features import check_fits, slice_features, slice_uncertainty
from poscon.suggestion.label_maps import OpenLabelMaps, open_scheme
from poscon.suggestion.pool import Slices
from poscon.suggestion.scans import scans_of
from poscon.volumes.layouts import is_dataset
from poscon.volumes.layouts.labels_json import LABELS_FILE
from poscon.volumes.ranges import write_template

TABLE = "suggestion.csv"
PICTURE = "suggestion.png"
LABEL_MAPS = "labels"
RANGES = "ranges.csv"
COLUMNS = ("rank", "case", "subject", "slice", "file_slice", "position", "strategy", "reason")
DEFAULT = "spread"


@dataclass(frozen=True)
class SuggestedSlice:
    """A slice that should be labelled: a line of ``suggestion.csv``.

    Attributes:
        rank: 1 is to be labelled first. All slices of a subject that was chosen have one rank.
        case: id of the case.
        subject: its subject.
        slice: number of the slice in the store, from 0.
        file_slice: number of the slice along its axis in the file of the scan, from 0.
        position: position of the slice, in the unit of the kind that was asked for.
        strategy: name of the strategy that chose it.
        reason: why it was chosen, in words.
    """

    rank: int
    case: str
    subject: str
    slice: int
    file_slice: int
    position: float
    strategy: str
    reason: str


@dataclass(frozen=True)
class Suggestion:
    """What `suggest` chose, and the files that it wrote.

    Attributes:
        slices: the chosen slices, the first to label first.
        table: ``suggestion.csv``.
        picture: ``suggestion.png``.
        label_maps: the label maps to fill in, one for each scan with a chosen slice.
        ranges: ``ranges.csv``, to fill in for the same scans: where each structure begins and ends.
            None: there are no label maps, or their classes have no names.
    """

    slices: tuple[SuggestedSlice, ...]
    table: Path
    picture: Path
    label_maps: tuple[Path, ...]
    ranges: Path | None


@checked
def suggest(
    store: Path | str,
    out: Path | str,
    *,
    budget: int,
    unit: str = "slice",
    strategy: str | None = None,
    init: Path | str | None = None,
    model: Path | str | None = None,
    source: Path | str | None = None,
    series: str | None = None,
    ignore_label: int | None = None,
    cases: Names | None = None,
    exclude: Names | None = None,
    position: str = "relative",
    seed: int = 0,
    device: str | None = None,
) -> Suggestion:
    """Choose which slices, or which subjects, to label next.

    Args:
        store: prepared data set. What is labelled in it counts as labelled already.
        out: folder to write: ``suggestion.csv``, ``suggestion.png``, ``labels/`` and
            ``ranges.csv``.
        budget: how many slices or subjects to choose.
        unit: what is chosen, ``slice`` or ``subject``.
        strategy: how to choose, see ``poscon methods``; None: ``spread``.
        init: pre-training run, whose encoder the strategies ``coverage``, ``typical`` and
            ``hybrid`` need. With any strategy the picture is a map of its embeddings.
        model: fine-tuning run, which the strategy ``uncertain`` needs and ``hybrid`` uses. With
            any strategy its predictions are put into the label maps, to be corrected.
        source: the folder that the store was prepared from. Then a label map to fill in is written
            for each scan with a chosen slice, and a file of ranges to fill in (see
            :mod:`poscon.volumes.ranges`) if the classes have names. None: neither.
        series: which DICOM series of ``source`` are read, as for `prepare`; None: all.
        ignore_label: the value of the label maps for what is not labelled; None: that which the
            data set states, else 255.
        cases: the cases or subjects to choose from: a file that names them, or a list of names;
            None: all.
        exclude: the subjects to leave out, such as the test subjects: a file or a list.
        position: kind of position, ``relative``, ``physical`` or ``learned``, see
            :mod:`poscon.positions`. ``learned`` needs a store that was aligned.
        seed: decides every random choice.
        device: ``auto``, ``cpu`` or ``cuda``; None: ``auto``.

    Raises:
        PosconError: an unusable store, run, strategy, source or selection; more asked for than is
            left; an option without effect; a folder that exists already.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PosconError(f"{out}: exists already; choose another folder")
    check_writable(out)
    if unit not in ("slice", "subject"):
        raise PosconError(f"--unit {unit}: is unknown; write slice or subject")
    if position not in POSITIONS:
        raise PosconError(f"--position {position}: is unknown; write relative, physical or learned")
    if budget < 1:
        raise PosconError(f"--budget {budget}: must be at least 1")
    opened, name = Store(store), DEFAULT if strategy is None else strategy
    chooser = find_strategy(name)()
    _check_options(name, chooser, unit, init, model, source)
    if device is not None and init is None and model is None:
        raise PosconError("--device: no effect without --init or --model; leave it out")
    for option, value in (("ignore-label", ignore_label), ("series", series)):
        if value is not None and source is None:
            raise PosconError(f"--{option}: no effect without --source; leave it out")
    folder = None if source is None else _source_folder(Path(source), out)
    slices = Slices.of(choose_cases(opened, cases, exclude), position)
    _check_budget(slices, budget, unit)
    network = None if model is None else Model(model, device or "auto")
    encoder = None if init is None else FeatureExtractor(init, device or "auto")
    for run, trained in ((init, encoder), (model, network)):
        if trained is not None:
            check_fits(opened, trained, str(run))
    if network is not None:
        _check_same_pixels(opened, network, str(model))
    label_maps = None
    if folder is not None:
        scheme = open_scheme(opened, folder, network, ignore_label)
        label_maps = OpenLabelMaps(opened, scans_of(opened, folder, series), scheme, network)

    features = None if encoder is None else slice_features(opened, slices.cases, encoder)
    uncertainty = None
    if network is not None and chooser.uncertainty != "unused":
        uncertainty = slice_uncertainty(opened, slices.cases, network, stream(seed, "views"))
    make_pool = slices.pool if unit == "slice" else slices.subject_pool
    pool = make_pool(features if chooser.needs_embeddings else None, uncertainty)
    choices = chooser.choose(pool, budget, seed)
    rows = [
        np.array([choice.row])
        if unit == "slice"
        else np.flatnonzero((slices.subject_of == choice.row) & ~slices.labelled)
        for choice in choices
    ]
    if init is not None and not chooser.needs_embeddings:
        console.print(
            f"note: strategy {name} does not choose by the encoder of {init}; it only draws the "
            "map of the picture",
            soft_wrap=True,
            markup=False,
        )
    with complete(out) as part:
        part.mkdir()
        found = _suggested(slices, rows, choices, name)
        _write_table(part / TABLE, found)
        draw_suggestion(
            part / PICTURE, opened, slices, rows, features, title=f"{opened.name}: {name}"
        )
        written: list[Path] = []
        classes: tuple[str, ...] = ()
        if label_maps is not None:
            written = _write_label_maps(part / LABEL_MAPS, label_maps, slices, np.concatenate(rows))
            classes = label_maps.scheme.names
        if classes:
            write_template(part / RANGES, sorted({each.case for each in found}), classes)
    return Suggestion(
        slices=tuple(found),
        table=out / TABLE,
        picture=out / PICTURE,
        label_maps=tuple(out / LABEL_MAPS / path.name for path in written),
        ranges=out / RANGES if classes else None,
    )


def _check_options(
    name: str,
    strategy: Strategy,
    unit: str,
    init: Path | str | None,
    model: Path | str | None,
    source: Path | str | None,
) -> None:
    """Refuse a strategy without what it needs, and an option without effect."""
    if unit == "subject" and strategy.needs_positions:
        raise PosconError(
            f"--unit subject: strategy {name} chooses by position, and a subject has all "
            "positions; choose another strategy"
        )
    if strategy.needs_embeddings and init is None:
        raise PosconError(
            f"strategy {name} needs an encoder; give one with --init, or choose another strategy"
        )
    if strategy.uncertainty == "needed" and model is None:
        raise PosconError(
            f"strategy {name} needs a model; give one with --model, or choose another strategy"
        )
    if model is not None and strategy.uncertainty == "unused" and source is None:
        raise PosconError(
            f"--model: no effect, strategy {name} uses no model; leave it out, or give --source to "
            "have its predictions in the label maps"
        )


def _source_folder(source: Path, out: Path) -> Path:
    if not is_dataset(source):
        raise PosconError(f"--source {source}: no such folder")
    if source.is_dir():
        check_outside(out, source)
    return source


def _check_budget(slices: Slices, budget: int, unit: str) -> None:
    """Refuse a budget above what is not labelled yet."""
    if unit == "slice":
        left = int((~slices.labelled).sum())
    else:
        begun = np.unique(slices.subject_of[slices.labelled])
        left = len(slices.subject_names) - len(begun)
    if budget > left:
        if left == 0:
            raise PosconError(f"--budget {budget}: no {unit} without labels is left to choose from")
        raise PosconError(
            f"--budget {budget}: only {left} {unit}(s) without labels are left to choose from; ask "
            "for fewer"
        )


def _check_same_pixels(store: Store, model: Model, run: str) -> None:
    """Refuse a model whose training data had pixels of another size."""
    ours, trained = store.manifest.preparation.spacing, model.preparation.spacing
    if ours != trained:
        here, there = ("native" if mm is None else f"{mm:g} mm" for mm in (ours, trained))
        raise PosconError(
            f"{store.path}: its spacing in plane is {here}, that of the training data of {run} is "
            f"{there}; prepare the store with --spacing {there.removesuffix(' mm')}"
        )


def _suggested(
    slices: Slices, rows: Sequence[np.ndarray], choices: Sequence[Choice], strategy: str
) -> list[SuggestedSlice]:
    """The chosen slices with all that is known of them.

    Args:
        slices: that were chosen from.
        rows: numbers of the slices of each choice.
        choices: as many, the first to label first.
        strategy: its name.
    """
    found = []
    for rank, (members, choice) in enumerate(zip(rows, choices, strict=True), start=1):
        for row in members:
            case, number = slices.cases[slices.case_of[row]], int(slices.slice_of[row])
            found.append(
                SuggestedSlice(
                    rank=rank,
                    case=case.id,
                    subject=case.subject,
                    slice=number,
                    file_slice=case.file_slice(number),
                    position=float(slices.positions[row]),
                    strategy=strategy,
                    reason=choice.reason,
                )
            )
    return found


def _write_table(path: Path, slices: Sequence[SuggestedSlice]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in slices:
            values = [getattr(each, column) for column in COLUMNS]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])


def _write_label_maps(
    folder: Path, label_maps: OpenLabelMaps, slices: Slices, rows: np.ndarray
) -> list[Path]:
    """A label map to fill in for each case of the chosen slices, and what its values mean."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        numbers[int(slices.case_of[row])].append(int(slices.slice_of[row]))
    folder.mkdir()
    scheme = label_maps.scheme
    about = {"classes": [asdict(c) for c in scheme.classes], "ignore": scheme.ignore}
    write_json(folder / LABELS_FILE, about)
    return [
        label_maps.write(folder, slices.cases[index], np.array(numbers[index]))
        for index in sorted(numbers)
    ]
