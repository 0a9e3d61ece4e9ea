"""The settings of views."""

from typing import Annotated

from pydantic import Field, field_validator

from poscon.settings import Settings

Zoom = Annotated[float, Field(ge=0.05, le=20)]


class ViewSettings(Settings):
    """How a view differs from its slice.

    Lengths of the geometry are fractions of the view's extent, so that they mean the same at every
    size. With blur and low resolution these are the transforms of nnU-Net (Isensee et al. 2021).

    Attributes:
        mirror: flip each in-plane axis with probability 1/2.
        warp_probability: how often a view is rotated, scaled and deformed. The other views are only
            mirrored and shifted.
        rotation: largest angle in degrees, in either direction.
        scale: smallest and largest zoom factor.
        shift: largest shift, in either direction. Views that are not warped are shifted too.
        elastic: standard deviation of the elastic displacement.
        elastic_points: number of control points of the displacement along each axis.
        brightness: standard deviation of an additive offset (images have unit variance).
        contrast: c changes the contrast by a factor from 1 / (1 + c) to 1 + c.
        gamma: g changes intensities by an exponent from 1 / (1 + g) to 1 + g, between the smallest
            and the largest value of the view.
        noise: largest standard deviation of additive noise.
        blur: largest standard deviation of a Gaussian blur, in pixels of the view. 0 switches it
            off.
        low_resolution: largest factor by which a view is made coarser before it is interpolated
            back. 1 switches it off.
        intensity_probability: how often each change of intensity (brightness to low_resolution) is
            made. It is drawn for each change by itself, and for each image channel.
    """

    mirror: bool = False
    warp_probability: float = Field(1.0, ge=0, le=1)
    rotation: float = Field(30.0, ge=0, le=180)
    scale: tuple[Zoom, Zoom] = (0.7, 1.3)
    shift: float = Field(0.1, ge=0, le=1)
    elastic: float = Field(0.02, ge=0, le=1)
    elastic_points: int = Field(6, ge=1, le=100)
    brightness: float = Field(0.1, ge=0, le=100)
    contrast: float = Field(0.25, ge=0, le=100)
    gamma: float = Field(0.4, ge=0, le=100)
    noise: float = Field(0.15, ge=0, le=100)
    blur: float = Field(0.0, ge=0, le=100)
    low_resolution: float = Field(1.0, ge=1, le=100)
    intensity_probability: float = Field(1.0, ge=0, le=1)

    @field_validator("scale")
    @classmethod
    def _low_to_high(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("write the smaller factor first")
        return scale
