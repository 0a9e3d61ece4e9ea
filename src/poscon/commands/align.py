"""``poscon align``: positions in the anatomy, learned from the images of a store."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from poscon.alignment.groups import find_groups
from poscon.arguments import checked
from poscon.errors import PosconError
from poscon.files import alone, complete
from poscon.pictures.alignment import draw_alignment
from poscon.positions import learned_positions
from poscon.store.manifest import SCHEMA_VERSION, AxisRecord, write_manifest
from poscon.store.placing import place_cases
from poscon.store.remote import is_url
from poscon.store.store import Store

PICTURE = "alignment.png"
AGAINST = "reversed.txt"
SHOWN = 5


@dataclass(frozen=True)
class Aligned:
    """What `align` found, and the files that it wrote into the store.

    Attributes:
        store: folder of the store.
        axis: where each case lies, by its id; the manifest has it now.
        picture: ``alignment.png``.
        against: ``reversed.txt``, the cases that run against most of them, for
            ``poscon prepare --reverse``; None: there are none.
        by_images: whether the cases are placed by their images; else by their place in the scan.
        summary: by what the cases are placed, and how far apart slices lie that look alike.
        groups: the cases of two groups of volumes that are hardly alike; None: they are one group.
    """

    store: Path
    axis: Mapping[str, AxisRecord]
    picture: Path
    against: Path | None
    by_images: bool
    summary: str
    groups: tuple[tuple[str, ...], tuple[str, ...]] | None

    def lines(self) -> Iterator[str]:
        """What a user should know."""
        unknown = [case for case, axis in self.axis.items() if not axis.determined]
        n = len(self.axis)
        if not self.by_images:
            yield self.summary
        else:
            yield f"{n - len(unknown)} of {n} volumes are placed by their images: {self.summary}"
        if self.by_images and unknown:
            yield (
                f"the images of {_some(unknown)} do not tell where they lie; they were put where "
                "most volumes are"
            )
        if self.against is not None:
            turned = [case for case, axis in self.axis.items() if axis.against]
            least = min(self.axis[case].clearness for case in turned)
            yield (
                f"{_some(turned)} run against the others (clearness at least {least:.2f} of 1), "
                "and their positions are turned; look at them, then turn the volumes too with "
                f"poscon prepare --reverse {shlex.quote(str(self.against))}"
            )
        if self.groups is not None:
            first, second = self.groups
            yield (
                f"there are two groups of volumes that are hardly alike: {_some(first)} and "
                f"{_some(second)}; if they show different parts of the body, prepare them as two "
                "stores"
            )
        yield f"picture: {self.picture}"
        store = shlex.quote(str(self.store))
        yield f"use the positions with: poscon pretrain {store} RUN -s position=learned"


@checked
def align(store: Path | str, *, seed: int = 0) -> Aligned:
    """Learn one coordinate for the slices of all volumes, from their images alone.

    Slices of two patients at the same coordinate show the same level of the anatomy, wherever their
    scans begin and end. Nothing is trained and no label is read. Where the images say no more than
    the position in the scan, the coordinates are those in the scan, in mm. See
    :func:`poscon.alignment.align.align` and :func:`poscon.alignment.belief.believe`.

    Args:
        store: folder of a prepared store. Positions that were learned before are replaced.
        seed: decides which volumes are compared, where there are more than a hundred.

    Raises:
        PosconError: an unusable store, or fewer than three subjects.
    """
    if is_url(store):
        raise PosconError(
            f"{store}: positions are written into a store in a folder of this machine; copy it "
            "there afterwards"
        )
    folder = Path(store)
    Store(folder)  # refused before a lock is made there
    with alone(folder, "align"):
        opened = Store(folder)
        found = place_cases(opened, opened.cases, seed)
        axis = found.axis
        groups = find_groups(found.components, [case.subject for case in opened.cases])
        coordinates = [learned_positions(case.shape[0], axis[case.id]) for case in opened.cases]
        against = np.array([axis[case.id].against for case in opened.cases])
        determined = np.array([axis[case.id].determined for case in opened.cases])
        by_images = found.believed.source == "images"
        draw_alignment(folder / PICTURE, opened, coordinates, against, determined, by_images)
        listed = _list_against(folder / AGAINST, axis)
        cases = tuple(replace(case, axis=axis[case.id]) for case in opened.cases)
        changed = {"schema_version": SCHEMA_VERSION, "cases": cases}
        manifest = opened.manifest.model_copy(update=changed)
        write_manifest(folder, manifest)
    names = [case.id for case in opened.cases]
    parts = None
    if groups is not None:
        parts = tuple(names[i] for i in groups[0]), tuple(names[i] for i in groups[1])
    return Aligned(folder, axis, folder / PICTURE, listed, by_images, found.summary, parts)


def _list_against(path: Path, axis: Mapping[str, AxisRecord]) -> Path | None:
    """Write the names of the cases that run against the others, or remove an earlier list."""
    names = [case for case, record in axis.items() if record.against]
    if not names:
        path.unlink(missing_ok=True)
        return None
    with complete(path) as part:
        part.write_text("\n".join(names) + "\n")
    return path


def _some(names: Sequence[str]) -> str:
    """``3 volume(s) (a, b, c)``, with the first few names."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} volume(s) ({', '.join(names[:SHOWN])}{more})"
