"""Parts that the reports of a comparison and of a single run share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from poscon.pictures.contact_sheet import COLOURS
from poscon.pictures.predictions import read_prediction
from poscon.pictures.slices import outlined_pngs
from poscon.positions import POSITIONS, PositionName
from poscon.reports import figures
from poscon.reports.embeddings import embed
from poscon.reports.page import Picture, Section, Slices, svg
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store

DIAGNOSTICS = {
    "retrieval_error": "position retrieval error, across subjects",
    "phase_error": "phase retrieval error, across subjects",
    "effective_rank": "effective rank of the features",
    "alignment": "alignment: squared distance of two views",
    "uniformity": "uniformity: 0 = all slices at one point",
}
CHANCE = {"retrieval_error": "retrieval_chance", "phase_error": "phase_chance"}
"""The column that has the level of chance of a diagnostic."""


def diagnostics(
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
    names: Sequence[str],
    positions: Mapping[str, PositionName],
) -> list[Picture]:
    """Draw the diagnostics over the steps of pre-trainings.

    Args:
        metrics: the rows of metrics.csv by name.
        names: names of all initialisations, see :func:`poscon.reports.figures.curves`.
        positions: the kind of position that each went by. Their retrieval errors are in different
            units, so each kind has a figure.
    """
    pictures = []
    for column, title in DIAGNOSTICS.items():
        if column != "retrieval_error":
            pictures += _curve(metrics, names, column, title)
            continue
        for kind in dict.fromkeys(positions[name] for name in metrics):
            chosen = {name: rows for name, rows in metrics.items() if positions[name] == kind}
            of_kind = "" if kind == "relative" else f", {kind} position{POSITIONS[kind].in_unit}"
            pictures += _curve(chosen, names, column, f"{title}{of_kind}")
    return pictures


def _curve(
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
    names: Sequence[str],
    column: str,
    title: str,
) -> list[Picture]:
    """Draw one column of metrics.csv over the steps; nothing if no run has it."""
    lines: dict[str, figures.Curve] = {}
    for name, rows in metrics.items():
        points = [(row["step"], row[column]) for row in rows if column in row]
        if points:
            steps, values = zip(*points, strict=True)
            lines[name] = (steps, values)
    if not lines:
        return []
    level = CHANCE.get(column, "")
    chance = [row.get(level) for rows in metrics.values() for row in rows if level in row]
    figure = figures.curves(
        lines,
        title,
        "step",
        "",
        of=names,
        level=chance[0] if chance else None,
        from_zero=column != "uniformity",
    )
    return [Picture(svg(figure, f"diagnostics-{title}"), title)]


def embedding_section(
    encoders: Mapping[str, tuple[Path, int]], store: Store, cases: Sequence[CaseRecord], whose: str
) -> Section:
    """Make the section with the similarity and the map of slices for each encoder.

    Args:
        encoders: by name, the folder of a pre-training and the size of its window in pixels.
        store: store that holds the slices.
        cases: see :func:`poscon.reports.embeddings.embed`.
        whose: words that say whose slices they are.
    """
    pictures = []
    for name, (run, size) in encoders.items():
        found = embed(run, store, cases, size)
        drawn = figures.similarity(found, f"{name}: similarity")
        pictures.append(
            Picture(svg(drawn, f"similarity-{name}"), f"{name}: similarity of slices by position")
        )
        drawn = figures.embedding_map(found, f"{name}: map")
        pictures.append(
            Picture(svg(drawn, f"map-{name}"), f"{name}: slices on a map, coloured by position")
        )
    text = [
        f"The figures compare the encoder's features of slices of {whose}, in order of position. "
        "A bright band along the diagonal means that slices at the same level are alike, which is "
        "the aim of position-aware pre-training. Bright spots alone mean that each slice is like "
        "itself only."
    ]
    return Section("What the encoders see", text, pictures, paired=True)


def volume(store: Store, case: CaseRecord, predictions: Path, title: str) -> Slices:
    """Draw the first channel of a case with the outlines of its reference and its prediction."""
    _, *in_plane = case.spacing
    pngs = outlined_pngs(
        store.image(case)[:, 0],
        store.label(case),
        read_prediction(store, case, predictions),
        (in_plane[0], in_plane[1]),
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(store.class_names))]
    if case.partly_labelled:
        title = f"{title} (dark: the reference is not labelled)"
    return Slices(title, pngs, list(zip(colours, store.class_names, strict=True)))
