"""Where a network runs, and running it over the slices of a volume."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import pad

from poscon.errors import PosconError
from poscon.networks.unet import UNet
from poscon.store.resample import resample_probabilities

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
    """``32`` or ``bf16``; ``auto`` is bfloat16 on a GPU, where it is always faster."""
    if precision == "auto":
        return "bf16" if device == "cuda" else "32"
    return precision


def channels_last(module: nn.Module) -> nn.Module:
    """Lay a network's convolutions out channels last: faster on a CPU (docs/results)."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def class_logits(network: UNet, stack: Tensor, size: int) -> Iterator[Tensor]:
    """Class logits of every slice, some whole slices at a time.

    A slice is padded with zeros, as in training, to a multiple of the network's stride and at
    least to the extent it was trained at.

    Args:
        network: in evaluation mode.
        stack: (S, H, W) float32, prepared like the training data.
        size: extent of the training crops.

    Yields:
        (slices, classes, H, W) float32 where the network is, in the order of the stack.
    """
    device = next(network.parameters()).device
    _, rows, columns = stack.shape
    padded, top, left = pad_slices(stack, size, network.settings.stride)
    for part in padded.split(batch_slices(padded[0].numel(), device)):
        logits: Tensor = network(part.to(device))
        yield logits[..., top : top + rows, left : left + columns].float()


def pad_slices(stack: Tensor, size: int, stride: int) -> tuple[Tensor, int, int]:
    """Pad slices with zeros on all sides, (S, H, W) -> (S, 1, H', W').

    H' and W' are multiples of ``stride`` and at least ``size``.

    Returns:
        The padded slices, and how many rows and columns were added before the first.
    """
    margins = []
    for length in reversed(stack.shape[1:]):  # last axis first, as pad wants it
        extra = max(size, -(-length // stride) * stride) - length
        margins += [extra // 2, extra - extra // 2]
    return pad(stack[:, None], margins), margins[2], margins[0]


def predicted_classes(
    network: UNet, stack: Tensor, size: int, grid: tuple[int, int] | None = None
) -> np.ndarray:
    """The class with the highest score, of every pixel; memory is bounded but for the result.

    Args:
        network: see :func:`class_logits`.
        stack: likewise.
        size: likewise.
        grid: rows and columns that the probabilities are resampled to first; None: the stack's.

    Returns:
        (S, rows, columns) uint8.
    """
    classes = []
    for logits in class_logits(network, stack, size):
        if grid is not None and grid != tuple(stack.shape[1:]):
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
