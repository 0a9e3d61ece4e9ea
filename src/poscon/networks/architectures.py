"""The architectures by name. A module is imported only when its architecture is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from poscon import plugins

if TYPE_CHECKING:
    from poscon.networks.parts import Encoder

ARCHITECTURES = {
    "unet": "poscon.networks.unet:UNetEncoder",
    "residual": "poscon.networks.residual:ResidualEncoder",
    "nnunet": "poscon.networks.nnunet:NnunetEncoder",
}
"""Name -> ``module:class``. The class is the encoder; it says what decoder goes with it."""


def known_architectures() -> dict[str, str]:
    """The name of every architecture, and where it comes from: poscon or a plug-in's package."""
    return plugins.names(plugins.NETWORKS, ARCHITECTURES)


def find_architecture(name: str) -> type[Encoder]:
    """The encoder class of an architecture.

    Raises:
        PosconError: there is no architecture of that name, or the plug-in cannot be used.
    """
    known = known_architectures()
    if known.get(name) == plugins.OWN:
        module, _, attribute = ARCHITECTURES[name].partition(":")
        own: type[Encoder] = getattr(import_module(module), attribute)
        return own
    from poscon.networks.parts import Encoder

    found: type[Encoder] = plugins.find(plugins.NETWORKS, name, ARCHITECTURES, subclass_of=Encoder)
    return found
