"""Pre-training methods, one file each: a pure loss function and a small module around it."""

from typing import TYPE_CHECKING

from poscon import plugins
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
"""poscon's own: method name, which is its module's, and the class in it."""


def find_method(name: str) -> "type[PretextMethod]":
    """The class of a pre-training method, of poscon's own or of a plug-in.

    Raises:
        PosconError: there is none of that name, or the plug-in cannot be used.
    """
    from poscon.pretext.base import PretextMethod

    return load_method(plugins.PRETEXT, PretextMethod, __name__, METHODS, name)


def known_methods() -> dict[str, str]:
    """The name of every method, and where it comes from: poscon or a plug-in's package."""
    return plugins.names(plugins.PRETEXT, METHODS)
