"""Choose where a network runs, and run it over the slices of a volume."""

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
from poscon.training.average_views import averaged_probabilities

_NO_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")
BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**22}
"""Pixels per batch. They limit the memory for slices of any size. A GPU needs more to be busy."""


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``. ``auto`` takes the GPU if there is one.

    Raises:
        PosconError: the device is unknown, or it is a GPU and there is none.
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
    """How many slices with this number of pixels go through a network at once, without gradient."""
    return max(1, BATCH_PIXELS[device.type] // pixels)


def choose_precision(precision: str, device: str) -> str:
    """Return the precision of a training, ``32`` or ``bf16``.

    ``auto`` is bfloat16 where the hardware multiplies in it. Decision 0015 says what that does to
    the Dice.
    """
    if precision == "auto":
        return "bf16" if device == "cuda" or multiplies_in_bfloat16() else "32"
    return precision


def multiplies_in_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply in bfloat16: AMX or AVX512-BF16."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def announced_precision(precision: str, device: str) -> str:
    """Call :func:`choose_precision`. Print a line on stderr where a user may want another one."""
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
    """Lay a network's convolutions out channels last. That is faster on a CPU (docs/results)."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def class_scores(
    network: SegmentationNetwork, stack: Tensor, size: int, *, average_views: bool = False
) -> Iterator[Tensor]:
    """Compute the class logits of every slice, some whole slices at a time.

    A slice is padded with zeros, as in training, to a multiple of the network's stride and at
    least to the extent it was trained at.

    Args:
        network: the network, in evaluation mode.
        stack: (S, channels, H, W) float32, the slices of one volume, prepared like the training
            data.
        size: extent of the training crops in pixels.
        average_views: see :func:`predicted_classes`.

    Yields:
        (slices, classes, H, W) float32 on the network's device, in the order of the stack: logits,
        or averaged probabilities.
    """
    device = next(network.parameters()).device
    rows, columns = stack.shape[2:]
    parts, top, left = network_inputs(stack, network.encoder, size)
    for part in parts:
        images = part.to(device)
        scores = averaged_probabilities(network, images) if average_views else network(images)
        yield scores[..., top : top + rows, left : left + columns].float()


def network_inputs(stack: Tensor, encoder: Encoder, size: int) -> tuple[Iterator[Tensor], int, int]:
    """Make an encoder's inputs from the slices of a volume: padded and with their neighbours.

    Args:
        stack: (S, channels, H, W) float32.
        encoder: encoder. It says how many neighbours it sees, and the stride of its inputs.
        size: least extent of the inputs in pixels, equal to that of the training crops.

    Returns:
        Batches (B, in_channels, H', W') on the stack's device, in the order of the slices. Then
        the numbers of rows and of columns of zeros before the first pixel.
    """
    margins = []
    for length in reversed(stack.shape[2:]):  # pad takes the last axis first
        extra = max(size, -(-length // encoder.stride) * encoder.stride) - length
        margins += [extra // 2, extra - extra // 2]
    around = torch.from_numpy(
        neighbours(np.arange(len(stack)), len(stack), encoder.settings.context)
    )
    pixels = (stack.shape[2] + sum(margins[2:])) * (stack.shape[3] + sum(margins[:2]))
    at_once = batch_slices(pixels, next(encoder.parameters()).device)

    def batches() -> Iterator[Tensor]:
        for part in around.split(at_once):  # only these slices are padded
            first, last = int(part.min()), int(part.max())
            yield pad(stack[first : last + 1], margins)[part - first].flatten(1, 2)

    return batches(), margins[2], margins[0]


def predicted_classes(
    network: SegmentationNetwork,
    stack: Tensor,
    size: int,
    grid: tuple[int, int] | None = None,
    *,
    average_views: bool = False,
) -> np.ndarray:
    """Find the class with the highest score for every pixel. Only the result grows with the volume.

    Args:
        network: see :func:`class_scores`.
        stack: see :func:`class_scores`.
        size: see :func:`class_scores`.
        grid: (rows, columns) to which the probabilities are resampled first; None: those of the
            stack.
        average_views: whether the probabilities are the mean over views of a slice, see
            :mod:`poscon.training.average_views`.

    Returns:
        (S, rows, columns) uint8, class indices.
    """
    classes = np.empty((len(stack), *(grid or stack.shape[2:])), np.uint8)
    done = 0
    for scores in class_scores(network, stack, size, average_views=average_views):
        if grid is not None and grid != tuple(stack.shape[2:]):
            probabilities = scores if average_views else scores.softmax(1)
            scores = resample_probabilities(probabilities, grid)
        best = scores.max(1).indices  # argmax would take ten times as long on a CPU
        classes[done : done + len(best)] = best.cpu().numpy()
        done += len(best)
    return classes


def largest_component(classes: np.ndarray) -> np.ndarray:
    """Keep the largest connected structure of all classes together. The rest becomes background.

    Voxels that touch at a corner are connected. If structures have equal size, the first one
    stays. nnU-Net does the same where its cross-validation says that it helps (Isensee et al.,
    Nature Methods 2021). With few labelled subjects that cannot be measured, so the user states
    it from the anatomy.

    Args:
        classes: class indices of one volume, an array of any dimension.
    """
    (box,) = ndimage.find_objects((classes > 0).view(np.uint8), max_label=1)
    if box is None:
        return classes
    inside = classes[box] > 0
    structures, n = ndimage.label(inside, structure=np.ones((3,) * classes.ndim))
    if n < 2:
        return classes
    sizes = np.zeros(n + 1, np.int64)
    for part in structures:
        sizes += np.bincount(part.ravel(), minlength=n + 1)
    kept = np.zeros_like(classes)
    np.copyto(kept[box], classes[box], where=structures == sizes[1:].argmax() + 1)
    return kept
