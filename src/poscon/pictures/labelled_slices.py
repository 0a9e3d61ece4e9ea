"""A strip for each subject: which of its slices are labelled, by their position."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from poscon.files import complete
from poscon.pictures.contact_sheet import SOFTWARE
from poscon.pictures.plain import PLAIN
from poscon.store.manifest import CaseRecord

MOST_ROWS = 40
LABELLED, OTHER = "#0072B2", "#DDDDDD"  # dark and light: told apart without colour too
_ROW = 0.22  # inches: height of a strip
_GAP = 0.25  # of a strip's height, to the next one
_ID_LENGTH = 24


@matplotlib.rc_context(PLAIN)
def draw_labelled_slices(cases: Sequence[CaseRecord], path: Path) -> None:
    """Draw a strip for each labelled subject, from position 0 to 1, with its labelled slices dark.

    The cases of a subject, such as its frames, lie one above the other in its strip. Of more than
    :data:`MOST_ROWS` subjects as many are drawn, evenly spread by name.

    Args:
        cases: one at least is labelled.
        path: the PNG to write, complete or not at all. Its folder is created.
    """
    of_subject: dict[str, list[CaseRecord]] = defaultdict(list)
    for case in cases:
        if case.labelled:
            of_subject[case.subject].append(case)
    names = sorted(of_subject)
    chosen = np.linspace(0, len(names) - 1, min(MOST_ROWS, len(names))).round().astype(int)
    shown = [names[i] for i in chosen]
    figure = Figure(figsize=(8, _ROW * len(shown) + 1.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, name in enumerate(shown):
        height = (1 - _GAP) / len(of_subject[name])
        for place, case in enumerate(of_subject[name]):
            n, bottom = case.shape[0], row + _GAP / 2 + place * height
            slices = [(i / n, 1 / n) for i in case.labelled_slice_numbers.tolist()]
            axes.broken_barh([(0, 1)], (bottom, height), facecolors=OTHER)
            axes.broken_barh(slices, (bottom, height), facecolors=LABELLED)
    labels = [n if len(n) <= _ID_LENGTH else f"{n[: _ID_LENGTH - 3]}..." for n in shown]
    axes.set_yticks(np.arange(len(shown)) + 0.5, labels, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(shown), 0), xlabel="position in the volume")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    some = f"{len(shown)} of " if len(shown) < len(names) else ""
    total = sum(case.n_labelled_slices for group in of_subject.values() for case in group)
    all_slices = sum(case.shape[0] for group in of_subject.values() for case in group)
    figure.suptitle(
        f"{some}{len(names)} labelled subjects: {total} of {all_slices} slices are labelled",
        fontsize=10,
    )
    handles = [Patch(color=LABELLED, label="labelled"), Patch(color=OTHER, label="not labelled")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    with complete(path) as part:
        figure.savefig(part, format="png", facecolor="white", metadata={"Software": SOFTWARE})
