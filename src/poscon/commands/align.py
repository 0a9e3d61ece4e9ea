"""``poscon align``: positions in the anatomy, learned from the images of a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poscon.alignment.align import Alignment, align as align_volumes
from poscon.alignment.groups import find_groups
from poscon.alignment.likeness import compact
from poscon.alignment.thumbnails import thumbnails
from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import alone, complete
from poscon.pictures.alignment import draw_alignment
from poscon.progress import progress_bar
from poscon.seeds import stream
from poscon.store.learned_positions import (
    POSITIONS,
    LearnedPosition,
    LearnedPositions,
    write_positions,
)
from poscon.store.remote import is_url
from poscon.store.store import Store
from poscon.version import __version__

PICTURE = "alignment.png"
AGAINST = "reversed.txt"
FEWEST = 3
SHOWN = 5


@dataclass(frozen=True)
class Aligned:
    """What `align` found, and the files that it wrote into the store.

    Attributes:
        positions: the content of ``positions.json``.
        table: ``positions.json``.
        picture: ``alignment.png``.
        against: ``reversed.txt``, the cases that run against most of them, for
            ``poscon prepare --reverse``; None: there are none.
        groups: the cases of two groups of volumes that are hardly alike; None: they are one group.
    """

    positions: LearnedPositions
    table: Path
    picture: Path
    against: Path | None
    groups: tuple[tuple[str, ...], tuple[str, ...]] | None

    def lines(self) -> Iterator[str]:
        """What a user should know."""
        cases = self.positions.cases
        unknown = [case for case, position in cases.items() if not position.determined]
        yield f"{len(cases) - len(unknown)} of {len(cases)} volumes are placed by their images"
        if unknown:
            yield (
                f"the images of {_some(unknown)} do not tell where they lie; they were put where "
                "most volumes are"
            )
        if self.against is not None:
            turned = self.positions.against()
            least = min(cases[case].clearness for case in turned)
            yield (
                f"{_some(turned)} run against the others (clearness at least {least:.2f} of 1); "
                f"look at them, then turn them with poscon prepare --reverse {self.against}"
            )
        if self.groups is not None:
            first, second = self.groups
            yield (
                f"the volumes fall into two groups that are hardly alike: {_some(first)}; "
                f"{_some(second)}. If they show different parts of the body, prepare them as two "
                "stores"
            )
        yield f"positions: {self.table}; picture: {self.picture}"
        yield "use them with: poscon pretrain -s position=learned"


@checked
def align(store: Path | str, *, seed: int = 0) -> Aligned:
    """Learn one coordinate for the slices of all volumes, from their images alone.

    Slices of two patients at the same coordinate show the same level of the anatomy, wherever their
    scans begin and end. Nothing is trained and no label is read. See
    :func:`poscon.alignment.align.align`.

    Args:
        store: folder of a prepared store. Positions that it has already are replaced.
        seed: decides which volumes are compared, where there are more than a hundred.

    Raises:
        PosconError: an unusable store, fewer than three subjects, or no volume whose images say
            where it lies.
    """
    if is_url(store):
        raise PosconError(f"{store}: positions are written into the store; copy it to a folder")
    opened = Store(store)
    subjects = [case.subject for case in opened.cases]
    if len(set(subjects)) < FEWEST:
        raise PosconError(
            f"{store}: has {len(set(subjects))} subject(s); to find what they share takes at least "
            f"{FEWEST}"
        )
    folder = Path(opened.path)
    with alone(folder, "align"):
        features = _features(opened)
        depths = [np.arange(case.shape[0]) * case.spacing[0] for case in opened.cases]
        found = align_volumes(features, depths, subjects, stream(seed, "align"))
        if not found.determined.any():
            raise PosconError(
                f"{store}: the slices of a volume are too alike to say where they lie; use "
                "position=relative or position=physical"
            )
        groups = find_groups(compact(features), subjects)
        positions = _positions(opened, found, seed)
        against = positions.against()
        list_file = folder / AGAINST
        if against:
            with complete(list_file) as part:
                part.write_text("\n".join(against) + "\n")
        else:
            list_file.unlink(missing_ok=True)
        draw_alignment(
            folder / PICTURE,
            opened,
            [
                positions.cases[case.id].coordinates(case.shape[0])
                for case in opened.cases
            ],
            np.array([positions.cases[case.id].against for case in opened.cases]),
            found.determined,
        )
        table = write_positions(opened, positions)
    names = [case.id for case in opened.cases]
    return Aligned(
        positions,
        table,
        folder / PICTURE,
        list_file if against else None,
        groups and tuple(tuple(names[i] for i in group) for group in groups),
    )


def _features(store: Store) -> list[np.ndarray]:
    """The small pictures of every case."""
    described = []
    with progress_bar() as progress:
        task = progress.add_task("reading", total=len(store.cases), status="")
        for case in store.cases:
            described.append(thumbnails(store.image(case)))
            progress.advance(task)
    return described


def _positions(store: Store, found: Alignment, seed: int) -> LearnedPositions:
    """What is written; a volume that is not determined gets the ends that most volumes have."""
    usual = np.median(np.sort(found.ends[found.determined], axis=1), axis=0)
    cases = {}
    for number, case in enumerate(store.cases):
        known = bool(found.determined[number])
        first, last = found.ends[number] if known else usual
        cases[case.id] = LearnedPosition(
            first=round(float(first), 3),
            last=round(float(last), 3),
            against=known and bool(found.directions[number] < 0),
            clearness=round(float(found.clearness[number]), 3),
            determined=known,
            pixels_sha256=case.pixels_sha256,
        )
    return LearnedPositions(version=1, poscon_version=__version__, seed=seed, cases=cases)


def _some(names: list[str] | tuple[str, ...]) -> str:
    """``3 volumes (a, b, c)``, with the first few names."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} volume(s) ({', '.join(names[:SHOWN])}{more})"
