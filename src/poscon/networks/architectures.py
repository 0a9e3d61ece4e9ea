"""The architectures by name. A module is imported only when its architecture is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from poscon.errors import PosconError
from poscon.settings import nearest

if TYPE_CHECKING:
    from poscon.networks.parts import Encoder

ARCHITECTURES = {
    "unet": "poscon.networks.unet:UNetEncoder",
    "residual": "poscon.networks.residual:ResidualEncoder",
}
"""Name -> ``module:class``. The class is the encoder; it says what decoder goes with it."""


def find_architecture(name: str) -> type[Encoder]:
    """The encoder class of an architecture.

    Raises:
        PosconError: there is no architecture of that name.
    """
    if name not in ARCHITECTURES:
        raise PosconError(
            f"setting network.architecture = {name!r}: is unknown{nearest(name, ARCHITECTURES)}; "
            f"known are {', '.join(ARCHITECTURES)}"
        )
    module, _, attribute = ARCHITECTURES[name].partition(":")
    found: type[Encoder] = getattr(import_module(module), attribute)
    return found
