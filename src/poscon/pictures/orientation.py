"""The radiological convention of pictures: here, and nowhere else.

The viewer faces the patient, or looks from the feet:

========  ==================  ========
plane     left of the picture  top
========  ==================  ========
axial     patient's right     anterior
coronal   patient's right     superior
sagittal  anterior            superior
========  ==================  ========
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", bound=np.generic)

CONVENTION = {
    "axial": "left is the patient's right, top is anterior, position rises to superior",
    "coronal": "left is the patient's right, top is superior, position rises to anterior",
    "sagittal": "left is anterior, top is superior, position rises to the patient's right",
}
"""By plane, what a caption says of the sides of a picture."""


def radiological(slices: NDArray[Pixel]) -> NDArray[Pixel]:
    """Turn stored slices into the pixels of a picture.

    A store keeps every slice in canonical orientation: rows and columns rise towards superior,
    anterior or the patient's right (:class:`poscon.volumes.geometry.SliceGeometry` records how the
    file's axes were permuted and flipped for that). In every plane the convention puts the end of
    both axes first, so both are turned round.

    Args:
        slices: (..., rows, columns) of a store, or a prediction on its grid.

    Returns:
        (..., rows, columns), a view; row 0 is the top of the picture, column 0 its left.
    """
    return slices[..., ::-1, ::-1]


def caption(plane: str) -> str:
    """One line that says which side is which.

    Args:
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
    """
    return f"{plane}, radiological convention by the headers: {CONVENTION[plane]}"
