"""Trained networks for other programs: one file a format, and the card beside each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Writer = Callable[..., float]
"""Writes a :class:`Trained` into a folder, and gives the largest difference of outputs found."""


@dataclass(frozen=True)
class Format:
    """A format of ``poscon export``.

    Attributes:
        writer: ``module:function``.
        cases: where the hashes of the data lie, beside the weights.
        usage: how the files are used, for the model card.
    """

    writer: str
    cases: Path
    usage: str


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
}


def find_writer(name: str) -> Writer:
    """The function that writes a format of :data:`FORMATS`."""
    module, _, function = FORMATS[name].writer.partition(":")
    writer: Writer = getattr(import_module(module), function)
    return writer
