"""Fine-tuning methods, one file each: a pure loss function and a small module around it."""

from typing import TYPE_CHECKING

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
"""Method name, which is its module's (``_`` for ``-``), and the class in it."""


def find_method(name: str) -> "type[FinetuneMethod]":
    """The class of a fine-tuning method."""
    return load_method("fine-tuning", __name__, METHODS, name)
