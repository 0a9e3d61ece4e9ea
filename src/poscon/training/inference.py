"""Where a network runs, and running it over the slices of a volume."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import pad

from poscon.errors import PosconError
from poscon.networks.parts import Encoder, SegmentationNetwork
from poscon.positions import neighbours
from poscon.progress import console
from poscon.store.resample import resample_probabilities

_NO_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")
BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**22}
"""Pixels a batch: bounds the memory, whatever the size of the slices. A GPU is busy with more."""


def choose_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes the GPU if there is one.

    Raises:
        PosconError: another word, or a GPU asked for where there is none.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device not in ("cpu", "cuda"):
        raise PosconError(f"device {device!r} is unknown; use auto, cpu or cuda")
    if device == "cuda" and not available:
        raise PosconError("device cuda: no CUDA GPU that torch can use here; use cpu or auto")
    return device


def batch_slices(pixels: int, device: torch.device) -> int:
    """How many slices of so many pixels go through a network at once, without a gradient."""
    return max(1, BATCH_PIXELS[device.type] // pixels)


def choose_precision(precision: str, device: str) -> str:
    """The precision of a training, ``32`` or ``bf16``.

    ``auto`` is bfloat16 where the hardware multiplies in it: on a GPU, and on a CPU with AMX. What
    that does to the Dice is in decision 0015.
    """
    if precision == "auto":
        return "bf16" if device == "cuda" or torch.cpu._is_amx_tile_supported() else "32"
    return precision


def announced_precision(precision: str, device: str) -> str:
    """:func:`choose_precision`, and a line on stderr where a user may want another one."""
    chosen = choose_precision(precision, device)
    if chosen == "32" or device == "cuda":
        return chosen
    if precision == "auto":
        console.print(
            "precision: bfloat16 (this CPU multiplies in it); "
            "--set precision=32 for float32, which repeats on every CPU",
            soft_wrap=True,
        )
    elif torch.backends.cpu.get_cpu_capability() in _NO_BFLOAT16:
        console.print(
            "note: precision bf16: this CPU does not multiply in bfloat16, so that a step takes "
            "many times as long; leave it out (poscon bench measures it)",
            soft_wrap=True,
        )
    return chosen


def channels_last(module: nn.Module) -> nn.Module:
    """Lay a network's convolutions out channels last: faster on a CPU (docs/results)."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def class_logits(network: SegmentationNetwork, stack: Tensor, size: int) -> Iterator[Tensor]:
    """Class logits of every slice, some whole slices at a time.

    A slice is padded with zeros, as in training, to a multiple of the network's stride and at
    least to the extent it was trained at.

    Args:
        network: in evaluation mode.
        stack: (S, channels, H, W) float32, the slices of one volume, prepared like the training
            data.
        size: extent of the training crops.

    Yields:
        (slices, classes, H, W) float32 where the network is, in the order of the stack.
    """
    device = next(network.parameters()).device
    rows, columns = stack.shape[2:]
    parts, top, left = network_inputs(stack, network.encoder, size)
    for part in parts:
        logits: Tensor = network(part.to(device))
        yield logits[..., top : top + rows, left : left + columns].float()


def network_inputs(stack: Tensor, encoder: Encoder, size: int) -> tuple[Iterator[Tensor], int, int]:
    """The slices of a volume as an encoder takes them, padded and with their neighbours.

    Args:
        stack: (S, channels, H, W) float32.
        encoder: says how many neighbours it sees, and the stride of its inputs.
        size: least extent of the inputs, that of the training crops.

    Returns:
        Batches (B, in_channels, H', W') on the stack's device, in the order of the slices; and how
        many rows and columns of zeros lie before the first.
    """
    margins = []
    for length in reversed(stack.shape[2:]):  # last axis first, as pad wants it
        extra = max(size, -(-length // encoder.stride) * encoder.stride) - length
        margins += [extra // 2, extra - extra // 2]
    padded = pad(stack, margins)
    around = torch.from_numpy(
        neighbours(np.arange(len(stack)), len(stack), encoder.settings.context)
    )
    at_once = batch_slices(padded[0, 0].numel(), next(encoder.parameters()).device)
    batches = (padded[part].flatten(1, 2) for part in around.split(at_once))
    return batches, margins[2], margins[0]


def predicted_classes(
    network: SegmentationNetwork, stack: Tensor, size: int, grid: tuple[int, int] | None = None
) -> np.ndarray:
    """The class with the highest score, of every pixel; memory is bounded but for the result.

    Args:
        network: see :func:`class_logits`.
        stack: see :func:`class_logits`.
        size: see :func:`class_logits`.
        grid: rows and columns that the probabilities are resampled to first; None: the stack's.

    Returns:
        (S, rows, columns) uint8.
    """
    classes = []
    for logits in class_logits(network, stack, size):
        if grid is not None and grid != tuple(stack.shape[2:]):
            logits = resample_probabilities(logits.softmax(1), grid)
        best = logits.max(1).indices  # as argmax, which takes ten times as long on a CPU
        classes.append(best.to("cpu", torch.uint8))
    return torch.cat(classes).numpy()


def largest_component(classes: np.ndarray) -> np.ndarray:
    """Keep the largest connected structure of all classes together; the rest is background.

    Voxels that touch at a corner are connected, and of structures of equal size the one stays that
    comes first. nnU-Net does the same where its cross-validation says that it helps (Isensee et
    al., Nature Methods 2021); with a few labelled subjects it has to be known of the anatomy.

    Args:
        classes: class indices, one volume of any dimension.
    """
    structures, n = ndimage.label(classes > 0, structure=np.ones((3,) * classes.ndim))
    if n < 2:
        return classes
    largest = np.bincount(structures.ravel())[1:].argmax() + 1
    return np.where(structures == largest, classes, classes.dtype.type(0))
