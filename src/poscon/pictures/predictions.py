"""A picture of predictions beside their references."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from msgspec.structs import asdict

from poscon.errors import PosconError
from poscon.files import complete
from poscon.pictures.contact_sheet import COLOURS
from poscon.pictures.orientation import radiological
from poscon.pictures.plain import PLAIN
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.volumes.case import IGNORE, LabelClass, LabelScheme
from poscon.volumes.geometry import SliceGeometry
from poscon.volumes.layouts.base import scan_files
from poscon.volumes.scan import read_scan, scan_stem


@matplotlib.rc_context(PLAIN)
def draw_predictions(
    path: Path,
    store: Store,
    cases: Sequence[str],
    predictions: Mapping[str, Path],
    *,
    title: str,
) -> None:
    """Draw one slice of each case: image, reference, and each prediction as a filled overlay.

    If there are several image channels, the first is drawn. What the reference does not label is
    grey.

    The slices are spread over those with reference foreground: the first case shows a low slice,
    the last case a high one.

    Args:
        path: PNG to write.
        store: holds images and references.
        cases: ids of labelled cases.
        predictions: by title of the column, a folder of label maps that are named by case.
        title: title of the picture.
    """
    columns = ["image", "reference", *predictions]
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * len(cases) + 1.0), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for place, (row, name) in enumerate(zip(axes, cases, strict=True)):
        (case,) = [c for c in store.cases if c.id == name]
        image, reference = store.image(case)[:, 0], store.label(case)
        foreground = (reference > 0) & (reference != IGNORE)
        labelled = np.flatnonzero(foreground.any(axis=(1, 2)))
        number = int(labelled[int((place + 0.5) / len(cases) * len(labelled))])
        overlays: list[np.ndarray | None] = [None, reference[number]]
        overlays += [
            read_prediction(store, case, folder)[number] for folder in predictions.values()
        ]
        for axis, column, overlay in zip(row, columns, overlays, strict=True):
            _, mm_row, mm_column = case.spacing
            rows, cols = image[number].shape
            extent = (0.0, cols * mm_column, 0.0, rows * mm_row)
            low, high = np.percentile(image[number], (1, 99.5))
            axis.imshow(
                radiological(image[number]), cmap="gray", vmin=low, vmax=high, extent=extent
            )
            if overlay is not None:
                axis.imshow(_colours(radiological(overlay)), extent=extent, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if axis in axes[0]:
                axis.set_title(column, fontsize=10)
        row[0].set_ylabel(f"{name}\nslice {number + 1} of {len(image)}", fontsize=8)
    handles = [
        Patch(color=COLOURS[index % len(COLOURS)], label=class_name)
        for index, class_name in enumerate(store.class_names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title, fontsize=11)
    with complete(path) as part:
        figure.savefig(part, dpi=110, format="png")


def read_prediction(store: Store, case: CaseRecord, folder: Path) -> np.ndarray:
    """The predicted classes of a case, (slices, rows, columns), on the scan's own grid in plane.

    Raises:
        PosconError: the folder has no label map of the case.
    """
    stems = {case.id: None, scan_stem(Path(case.source)): case.frame_index}
    files = [path for path in scan_files(folder) if scan_stem(path) in stems]
    if not files:
        raise PosconError(f"{folder}: has no label map of case {case.id}")
    data = read_scan(files[0]).data
    if data.ndim == 4 and case.frame_index is not None:
        data = data[..., case.frame_index]
    scheme = LabelScheme(tuple(LabelClass(c.name, c.values) for c in store.manifest.classes))
    classes = scheme.to_classes(data, where=str(files[0]))
    return SliceGeometry(**asdict(case.geometry)).to_stack(classes)


def _colours(classes: np.ndarray) -> np.ndarray:
    """(H, W) class indices -> (H, W, 4), background transparent and what is not labelled grey."""
    table = np.zeros((IGNORE + 1, 4))
    for index in range(1, IGNORE):
        table[index] = to_rgba(COLOURS[(index - 1) % len(COLOURS)], alpha=0.6)
    table[IGNORE] = to_rgba("0.5", alpha=0.6)
    return table[classes]
