"""Probes measure what a frozen encoder knows. The encoder is not trained."""

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
from poscon.pretext.pcl import phase_distances
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.training.data import LabelledBatches, SliceReader
from poscon.training.inference import batch_slices
from poscon.volumes.case import IGNORE

TIE = 1e-9
"""Cosines that differ by less than this are equal. The difference is rounding."""
STEPS = 300
BATCH = 16
FOREGROUND = 0.5
"""Share of the probe's training slices that are cropped around foreground, 0 to 1."""
RATE = 0.01


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[torch.device]:
    """Run an encoder in evaluation mode, in single precision and without a gradient.

    Afterwards every module has the mode that it had before.

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
    """Average the encoder's last level over each picture: (B, in_channels, H, W) -> (B, C)."""
    return encoder(images)[-1].flatten(2).mean(-1)


class Retrieval(NamedTuple):
    """Mean distances in position, in the unit of the positions.

    Attributes:
        error: distance to the slice of another subject with the nearest features.
        chance: distance to a random slice of another subject.
    """

    error: float
    chance: float


def position_retrieval(
    features: Tensor, positions: Tensor, subjects: Sequence[str], *, cyclic: bool = False
) -> Retrieval | None:
    """Measure whether slices with similar features lie at the same level of their volumes.

    With phases in place of positions it measures whether they show the same time of the cycle.

    The nearest slice is the one with the greatest cosine. Where several are equally near, the
    mean over them is taken. So an encoder that maps all slices to one point is at chance.

    Args:
        features: (N, D), features of each slice.
        positions: (N,), position of each slice, in any unit.
        subjects: N names. A slice is compared with slices of other subjects only.
        cyclic: whether they are phases, of which 0 follows on 1.

    Returns:
        The distances, or None if all slices belong to one subject.
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
    distance = phase_distances(at, at) if cyclic else (at[:, None] - at).abs()

    def mean(of: Tensor) -> float:
        return float(((distance * of).sum(dim=1) / of.sum(dim=1)).mean())

    return Retrieval(error=mean(nearest), chance=mean(others))


class LinearProbe(nn.Module):
    """A classifier of pixels that is linear in the encoder's features of all levels.

    It is a 1x1 convolution of all levels, enlarged to full resolution and concatenated. Enlarging
    is linear. So it is done after the convolution, which is much cheaper. Each channel is first
    brought to mean 0 and variance 1, without parameters. So the scale of the features does not
    matter.
    """

    def __init__(self, channels: Sequence[int], n_classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, affine=False) for n in channels)
        self.weights = nn.ParameterList(torch.zeros(n_classes, n, 1, 1) for n in channels)
        self.bias = nn.Parameter(torch.zeros(n_classes, 1, 1))

    def forward(self, features: Sequence[Tensor], size: int) -> Tensor:
        """Turn features (B, C, H, W) of every level into logits (B, n_classes, size, size)."""
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
    """Measure how well a linear classifier of the encoder's features segments.

    Args:
        encoder: encoder, which does not change.
        store: store that holds the cases.
        train_cases: labelled cases to train the classifier on.
        test_cases: labelled cases of other subjects.
        size: extent in pixels of what the encoder sees: the middle of each test slice.
        seed: seed of the training slices.

    Returns:
        Dice by class and case id. A class that neither prediction nor label has is left out.
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
    """Dice of each class, over the middle of every slice of a reader's only case."""
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
    """Cut or pad (S, H, W) to (S, size, size), as :meth:`SliceReader.centred` does."""
    for axis in (1, 2):
        at = np.arange(size) + stack.shape[axis] // 2 - size // 2
        inside = (at >= 0) & (at < stack.shape[axis])
        padding = [(0, 0)] * 3
        padding[axis] = (int((at < 0).sum()), int((at >= stack.shape[axis]).sum()))
        stack = np.pad(stack.take(at[inside], axis), padding)
    return stack
