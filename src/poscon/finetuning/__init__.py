"""Fine-tuning methods, one file each: a pure loss function and a small module around it."""

from typing import TYPE_CHECKING

from poscon import plugins
from poscon.methods import load_method

if TYPE_CHECKING:
    from poscon.finetuning.base import FinetuneMethod

METHODS = {
    "supervised": "Supervised",
    "mixup": "Mixup",
    "tcsm": "TransformationConsistency",
    "mean-teacher": "MeanTeacher",
    "bcp": "BidirectionalCopyPaste",
    "fixmatch": "FixMatch",
    "unimatch": "UniMatch",
    "supervised-pcl": "SupervisedWithContrast",
}
"""poscon's own: method name, which is its module's (``_`` for ``-``), and the class in it."""


def find_method(name: str) -> "type[FinetuneMethod]":
    """The class of a fine-tuning method, of poscon's own or of a plug-in.

    Raises:
        PosconError: there is none of that name, or the plug-in cannot be used.
    """
    from poscon.finetuning.base import FinetuneMethod

    return load_method(plugins.FINETUNING, FinetuneMethod, __name__, METHODS, name)


def known_methods() -> dict[str, str]:
    """The name of every method, and where it comes from: poscon or a plug-in's package."""
    return plugins.names(plugins.FINETUNING, METHODS)
