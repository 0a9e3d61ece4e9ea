"""Pre-training methods, one file each: a pure loss function and a small module around it."""

from typing import TYPE_CHECKING

from poscon.methods import load_method

if TYPE_CHECKING:
    from poscon.pretext.base import PretextMethod

METHODS = {
    "pcl": "PositionalContrast",
    "simclr": "SimCLR",
    "gcl": "GlobalLocalContrast",
    "pirl": "PIRL",
    "rotation": "Rotation",
    "mae": "MaskedAutoencoder",
    "pcl-mae": "ContrastAndRestore",
    "random": "RandomInit",
}
"""Method name, which is its module's, and the class in it."""


def find_method(name: str) -> "type[PretextMethod]":
    """The class of a pre-training method."""
    return load_method("pre-training", __name__, METHODS, name)
