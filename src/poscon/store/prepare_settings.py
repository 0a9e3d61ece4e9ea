"""The settings of ``poscon prepare``."""

from typing import Any, Literal

from pydantic import field_validator

from poscon.settings import Settings


class PrepareSettings(Settings):
    """The settings of ``poscon prepare``.

    Attributes:
        plane: plane of the slices; ``auto``: the plane in which the scan was acquired.
        spacing: pixel size in mm to which slices are resampled; ``native``: as scanned; ``auto``:
            the median in-plane spacing of the data set, over both axes. Pixels are then square.
        source_spacing: voxel size in mm along the file's axes, for files whose headers are wrong.
        modality: ``CT``, ``MR``, or ``auto``: by the layout, else by the values.
    """

    plane: Literal["auto", "axial", "coronal", "sagittal"] = "auto"
    spacing: float | Literal["auto", "native"] = "auto"
    source_spacing: tuple[float, float, float] | None = None
    modality: Literal["auto", "CT", "MR"] = "auto"

    @field_validator("modality", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        """``mr`` is read as ``MR``."""
        word = value.upper() if isinstance(value, str) else value
        return word if word in ("CT", "MR") else value

    @field_validator("spacing", "source_spacing")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        numbers = value if isinstance(value, tuple) else [value]
        if any(isinstance(n, float) and not 0 < n < float("inf") for n in numbers):
            raise ValueError("must be positive mm")
        return value
