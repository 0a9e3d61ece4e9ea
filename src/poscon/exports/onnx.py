"""``--to onnx``: the encoder and, of a fine-tuned model, the whole network.

::

    OUT/
        model.onnx               images -> logits; of a fine-tuning
        encoder.onnx             images -> features of every level, full resolution first
"""

import copy
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poscon.errors import PosconError
from poscon.exports.torch import dynamic_sizes
from poscon.exports.trained import Trained, check_agreement, disagreement
from poscon.networks.layers import UpSample2d
from poscon.networks.parts import SegmentationNetwork
from poscon.networks.translations import to_transposed

OPSET = 18
"""The oldest opset that torch writes without converting it afterwards."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(trained: Trained, folder: Path, opset: int = OPSET) -> float:
    """Write the files.

    Args:
        trained: what is exported.
        folder: where to write; it is there.
        opset: version of ONNX' operators.

    Returns:
        The largest relative difference of outputs, by ONNX Runtime.

    Raises:
        PosconError: packages are missing, the opset cannot be written, or the outputs differ.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise PosconError(
            f"--to onnx: needs {', '.join(missing)}, not installed; pip install 'poscon[export]'"
        )
    _check_opset(opset)
    levels = [f"level{level}" for level in range(trained.settings.levels + 1)]
    networks: dict[str, tuple[nn.Module, list[str]]] = {"encoder": (trained.encoder, levels)}
    if isinstance(trained.network, SegmentationNetwork):
        networks["model"] = trained.network, ["logits"]
    return max(
        _write(network, outputs, trained, folder / f"{name}.onnx", opset)
        for name, (network, outputs) in networks.items()
    )


def _check_opset(opset: int) -> None:
    """Refuse an opset that is not known, or older than what torch writes.

    Raises:
        PosconError: it is one of these.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise PosconError(f"--opset {opset}: cannot be written; use {OPSET} to {newest}")


def _write(
    network: nn.Module, outputs: list[str], trained: Trained, path: Path, opset: int
) -> float:
    """Write one network, and compare it.

    Raises:
        PosconError: torch cannot write it in this opset, or the outputs differ.
    """
    import onnx

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                with_transposed_convolutions(network),
                (trained.images,),
                str(path),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes=(dynamic_sizes(trained.encoder.stride),),
                external_data=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise PosconError(f"--opset {opset}: torch cannot write the network ({reason})") from error
    finally:
        logging.disable(before)
    written = {entry.domain: entry.version for entry in onnx.load(path).opset_import}.get("")
    if written != opset:
        raise PosconError(f"--opset {opset}: cannot be written, torch made {written} of it")
    with torch.no_grad():
        expected = network(trained.images)
    difference = disagreement(_run(path, trained.images), expected)
    check_agreement(difference, path)
    return difference


def with_transposed_convolutions(network: nn.Module) -> nn.Module:
    """A copy that computes the same with ``nn.ConvTranspose2d``, an operator of ONNX."""
    twin = copy.deepcopy(network)
    for parent in list(twin.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, UpSample2d):
                rows, inputs = module.weight.shape[:2]
                plain = nn.ConvTranspose2d(inputs, rows // 4, 2, stride=2)
                plain.load_state_dict({"weight": to_transposed(module.weight), "bias": module.bias})
                setattr(parent, name, plain)
    return twin.eval()


def _run(path: Path, images: torch.Tensor) -> Any:
    """The outputs by ONNX Runtime, one or several."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(o) for o in session.run(None, {"images": images.numpy()})]
