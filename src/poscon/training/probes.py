"""Probes: what a frozen encoder knows, without any training of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from poscon.finetuning.supervised import supervised_loss
from poscon.networks.parts import Encoder
from poscon.pretext.contrast import unit
from poscon.store.store import CaseRecord, Store
from poscon.training.data import LabelledBatches, SliceReader
from poscon.training.inference import batch_slices
from poscon.volumes.case import IGNORE

TIE = 1e-9
"""Cosines that differ by less are equal: the rest is rounding."""
STEPS = 300
BATCH = 16
FOREGROUND = 0.5
"""The share of the probe's training slices that are cropped around foreground."""
RATE = 0.01


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[torch.device]:
    """Run an encoder as it is, in evaluation mode, single precision and without a gradient.

    Every module is put back into the mode that it was in.

    Yields:
        The device that the encoder is on.
    """
    device = next(encoder.parameters()).device
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode


def pooled_features(encoder: nn.Module, images: Tensor) -> Tensor:
    """The encoder's last level, averaged over each picture: (B, in_channels, H, W) -> (B, C)."""
    return encoder(images)[-1].flatten(2).mean(-1)


class Retrieval(NamedTuple):
    """Errors are mean distances in position.

    Attributes:
        error: to the slice of another subject with the nearest features.
        chance: to a random slice of another subject.
    """

    error: float
    chance: float


def position_retrieval(
    features: Tensor, positions: Tensor, subjects: Sequence[str]
) -> Retrieval | None:
    """Whether slices that look alike to the encoder lie at the same level of their volumes.

    The nearest slice is that of the greatest cosine; where several are equally near, as with an
    encoder that maps all to one point, the mean over them is taken, so that it is at chance.

    Args:
        features: (N, D).
        positions: (N,).
        subjects: N names; a slice is compared with those of other subjects only.

    Returns:
        None if all are of one subject.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(subjects))}
    subject = torch.tensor([numbers[name] for name in subjects])
    others = subject[:, None] != subject
    if not others.any():
        return None
    z = unit(features.double().cpu())
    cosine = (z @ z.T).masked_fill(~others, -torch.inf)
    nearest = cosine >= cosine.amax(dim=1, keepdim=True) - TIE
    at = positions.double().cpu()
    distance = (at[:, None] - at).abs()

    def mean(of: Tensor) -> float:
        return float(((distance * of).sum(dim=1) / of.sum(dim=1)).mean())

    return Retrieval(error=mean(nearest), chance=mean(others))


class LinearProbe(nn.Module):
    """A classifier of pixels that is linear in the encoder's features of all levels.

    It is a 1x1 convolution of all levels, enlarged to full resolution and concatenated. Enlarging
    is linear and can as well come after the convolution, which is much cheaper. Each channel is
    first brought to mean 0 and variance 1, without parameters, so that the scale of an encoder's
    features does not matter.
    """

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, affine=False) for n in channels)
        self.weights = nn.ParameterList(torch.zeros(n_classes, n, 1, 1) for n in channels)
        self.bias = nn.Parameter(torch.zeros(n_classes, 1, 1))

    def forward(self, features: Sequence[Tensor], size: int) -> Tensor:
        """(B, C, H, W) of every level -> logits (B, n_classes, size, size)."""
        logits: Tensor = self.bias
        for level, norm, weight in zip(features, self.norms, self.weights, strict=True):
            small = conv2d(norm(level), weight)
            logits = logits + interpolate(small, (size, size), mode="bilinear")
        return logits


def linear_segmentation_probe(
    encoder: Encoder,
    store: Store,
    train_cases: Sequence[CaseRecord],
    test_cases: Sequence[CaseRecord],
    size: int,
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """How well a linear classifier of the encoder's features segments.

    Args:
        encoder: is not changed.
        store: where the cases are.
        train_cases: labelled cases that the classifier is trained on.
        test_cases: labelled cases, of other subjects.
        size: extent in pixels of what the encoder sees, the middle of each test slice.
        seed: of the training slices.

    Returns:
        Dice by class and case id; a class absent from both prediction and label is left out.
    """
    reader = SliceReader(store, train_cases, size, encoder.settings.context)
    slices = LabelledBatches(reader, BATCH, size, STEPS, FOREGROUND, seed, STEPS)

    def look(images: Tensor) -> list[Tensor]:
        with frozen(encoder) as device:
            return encoder(images.float().to(device))

    channels = [level.shape[1] for level in look(slices.batch(0).images)]
    probe = LinearProbe(channels, len(store.class_names) + 1)
    probe.to(next(encoder.parameters()).device)
    optimiser = torch.optim.AdamW(probe.parameters(), RATE)
    for batch, _, _ in slices.from_step(0):
        assert batch.labels is not None
        logits = probe(look(batch.images), size)
        loss = supervised_loss(logits, batch.labels.long().to(logits.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    probe.eval()
    context = encoder.settings.context
    return {
        case.id: _dice(probe, look, store, SliceReader(store, [case], size, context), size)
        for case in test_cases
    }


@torch.no_grad()
def _dice(
    probe: LinearProbe,
    look: Callable[[Tensor], list[Tensor]],
    store: Store,
    reader: SliceReader,
    size: int,
) -> dict[str, float]:
    """Dice of each class over the middles of the slices of a reader's only case."""
    (case,) = reader.cases
    at_once = batch_slices(size**2, next(probe.parameters()).device)
    parts = np.array_split(np.arange(len(reader)), -(-len(reader) // at_once))
    predicted = np.concatenate(
        [probe(look(reader.centred(part).images), size).argmax(1).cpu().numpy() for part in parts]
    )
    expected = _middle(store.label(case), size)
    predicted = np.where(expected == IGNORE, IGNORE, predicted)
    dice = {}
    for index, name in enumerate(store.class_names, start=1):
        a, b = predicted == index, expected == index
        if total := int(a.sum()) + int(b.sum()):
            dice[name] = 2 * int((a & b).sum()) / total
    return dice


def _middle(stack: np.ndarray, size: int) -> np.ndarray:
    """(S, H, W) -> (S, size, size), cut or padded as :meth:`SliceReader.centred` does."""
    for axis in (1, 2):
        at = np.arange(size) + stack.shape[axis] // 2 - size // 2
        inside = (at >= 0) & (at < stack.shape[axis])
        padding = [(0, 0)] * 3
        padding[axis] = (int((at < 0).sum()), int((at >= stack.shape[axis]).sum()))
        stack = np.pad(stack.take(at[inside], axis), padding)
    return stack
