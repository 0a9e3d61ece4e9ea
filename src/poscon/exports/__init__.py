"""Trained networks for other programs: one file a format, and the card beside each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

Writer = Callable[..., float]
"""Writes a :class:`Trained` into a folder, and gives the largest difference of outputs found."""


@dataclass(frozen=True)
class Format:
    """A format of ``poscon export``.

    Attributes:
        writer: ``module:function``.
        cases: where the hashes of the data lie, beside the weights.
        usage: how the files are used, for the model card.
        note: ``module:function``. It takes the :class:`Trained`, and says more for the card; None:
            there is no more.
    """

    writer: str
    cases: Path
    usage: str
    note: str | None = None


FORMATS = {
    "torch": Format(
        "poscon.exports.torch:write_torch",
        Path("cases.json"),
        "In this folder, with torch and safetensors:\n\n"
        "```python\nimport network\n\nmodel = network.load()\n```\n\n"
        'With torch alone: `torch.export.load("network.pt2").module()`. To train it further: '
        "`poscon finetune STORE RUN --init weights.safetensors`.",
    ),
    "onnx": Format(
        "poscon.exports.onnx:write_onnx",
        Path("cases.json"),
        "`model.onnx` gives logits, `encoder.onnx` the features of every level, full resolution "
        "first. The input is `images`. Batch and size may vary.",
    ),
    "monai": Format(
        "poscon.exports.monai:write_monai",
        Path("models") / "cases.json",
        "In this folder, with MONAI, nibabel, SciPy and fire:\n\n"
        "    python -m monai.bundle run --config_file configs/inference.json "
        "--input 'scans/*.nii.gz'\n\n"
        "Label maps go to `predictions`; `--output_dir` changes that. To train it further with "
        "poscon: `poscon finetune STORE RUN --init models/model.pt`.",
    ),
    "nnunet": Format(
        "poscon.exports.nnunet:write_nnunet",
        Path("cases.json"),
        "With nnU-Net v2, for a data set with the same plans:\n\n"
        "    nnUNetv2_train DATASET 2d FOLD -pretrained_weights pretrained.pth\n\n"
        "The segmentation layers are not in the file. nnU-Net begins them at random.",
        "poscon.exports.nnunet:note",
    ),
}


def find_writer(name: str) -> Writer:
    """The function that writes a format of :data:`FORMATS`."""
    writer: Writer = _find(FORMATS[name].writer)
    return writer


def usage_of(name: str, trained: Any) -> str:
    """How the files of a format are used, and what there is to say of this :class:`Trained`."""
    found = FORMATS[name]
    return found.usage if found.note is None else f"{found.usage}\n\n{_find(found.note)(trained)}"


def _find(place: str) -> Any:
    """What a text ``module:name`` means."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
