"""The slices of a volume as pictures for a page: reference and prediction, side by side."""

import base64
import io

import matplotlib.image
import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from poscon.pictures.contact_sheet import COLOURS
from poscon.pictures.orientation import radiological
from poscon.volumes.case import IGNORE

MOST = 40
"""The most slices of a volume that are shown, evenly spread."""
WIDTH = 192
"""Pixels of one of the two pictures."""
DARK = 0.4
"""What is left of the brightness where the reference is not labelled."""


def outlined_pngs(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float]
) -> list[str]:
    """One base64 PNG per slice: the image with the reference's outlines, then the prediction's.

    What the reference does not label is dark in its picture.

    Args:
        image: (slices, rows, columns).
        reference: class indices, of the image's shape.
        prediction: class indices of the same slices, on any grid in plane.
        spacing: mm between rows and between columns of the image.
    """
    n, rows, columns = image.shape
    height = max(1, round(WIDTH * rows * spacing[0] / (columns * spacing[1])))
    pngs = []
    for i in np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(int)):
        pixels = radiological(image[i]).astype(np.float32)
        low, high = np.percentile(pixels, (1, 99.5))
        grey = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
        panels = []
        for classes in (radiological(reference[i]), radiological(prediction[i])):
            panel = np.repeat(_resized(grey, height)[..., None], 3, axis=2)
            shown = _resized(classes, height)
            panel[shown == IGNORE] *= DARK
            for index in np.unique(classes[(classes > 0) & (classes != IGNORE)]).tolist():
                mask = shown == index
                edge = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=1)
                panel[edge] = to_rgb(COLOURS[(index - 1) % len(COLOURS)])
            panels.append(panel)
        both = np.concatenate([panels[0], np.zeros((height, 4, 3)), panels[1]], axis=1)
        file = io.BytesIO()
        matplotlib.image.imsave(file, (both * 255).astype(np.uint8), format="png")
        pngs.append(base64.b64encode(file.getvalue()).decode())
    return pngs


def _resized(plane: np.ndarray, height: int) -> np.ndarray:
    """(rows, columns) resampled to (height, WIDTH), nearest neighbour."""
    rows = ((np.arange(height) + 0.5) * plane.shape[0] / height).astype(int)
    columns = ((np.arange(WIDTH) + 0.5) * plane.shape[1] / WIDTH).astype(int)
    return plane[np.ix_(rows, columns)]
