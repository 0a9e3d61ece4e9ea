"""Diagnostics of an encoder while it is trained. They show what the loss does not."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from poscon.pretext.contrast import unit
from poscon.seeds import stream
from poscon.training.data import SliceReader
from poscon.training.inference import batch_slices
from poscon.training.probes import frozen, pooled_features, position_retrieval
from poscon.views import ViewMaker

SUBJECTS = 32
SLICES = 256
SHARE = 4
"""One slice in so many is measured, but at least ``AT_LEAST`` and at most ``SLICES``.

Measuring must cost less than training.
"""
AT_LEAST = 16


def alignment(first: Tensor, second: Tensor) -> float:
    """How far two views of one slice are apart (Wang & Isola 2020, Sec. 4.1, with alpha = 2).

    It is the mean of ||f(x) - f(y)||^2 with f at unit length, from 0 (equal) to 4 (opposite).

    Args:
        first: (N, D), features of a view of each slice.
        second: (N, D), features of another view of each slice.
    """
    return float((unit(first) - unit(second)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """How evenly slices are spread over the sphere (Wang & Isola 2020, Sec. 4.1, with t = 2).

    It is the log of the mean over all pairs of exp(-2 ||f(x) - f(y)||^2) with f at unit length.
    It is 0 if all slices are one point, and lower the further they are spread.

    Args:
        features: (N, D) with N > 1.
    """
    return float(torch.pdist(unit(features)).square().mul(-2).exp().mean().log())


def effective_rank(features: Tensor) -> float:
    """How many directions the features use (Roy & Vetterli 2007, Def. 1).

    It is exp of the entropy of the singular values divided by their sum. The features are not
    centred, as in RankMe (Garrido et al. 2023). So the rank is 1 if all slices are one point;
    after centring, noise in all directions would be left. It is 0 if all features are 0.

    Args:
        features: (N, D), features of each slice.
    """
    values = torch.linalg.svdvals(features)
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def sample_slices(reader: SliceReader, seed: int) -> np.ndarray:
    """Choose random slices of up to `SUBJECTS` random subjects, as evenly as the subjects allow.

    Returns:
        Indices of up to `SLICES` slices, subject after subject.
    """
    generator = np.random.default_rng(seed)
    subjects = generator.permutation(len(reader.subjects))[:SUBJECTS]
    n_slices = min(SLICES, max(AT_LEAST, len(reader) // SHARE))
    each = max(1, n_slices // len(subjects))
    return np.concatenate(
        [generator.permutation(np.flatnonzero(reader.subject_of == s))[:each] for s in subjects]
    )


class Diagnostics:
    """Measures an encoder on a fixed sample of slices.

    The encoders of all methods are measured in the same way: in evaluation mode, by the features
    of the bottleneck, averaged over the picture. The projection head is not used. The training
    does not change.

    Args:
        encoder: encoder to measure, in its state at each call.
        reader: the slices of the training.
        views: views of the training, for the alignment. All else is measured on the middle of the
            slices.
        seed: seed of the sample and the views.
    """

    def __init__(
        self, encoder: nn.Module, reader: SliceReader, views: ViewMaker, seed: int
    ) -> None:
        self.encoder = encoder
        self.reader = reader
        self.views = views
        self.seed = seed
        self.sample = sample_slices(reader, seed)

    def __call__(self) -> dict[str, float]:
        """Return the values for metrics.csv. A value that is not defined is left out."""
        centred, first, second = self._features()
        if not bool(torch.isfinite(torch.cat([centred, first, second])).all()):
            return {}
        values = {
            "alignment": alignment(first, second),
            "uniformity": uniformity(centred),
            "effective_rank": effective_rank(centred),
        }
        positions = torch.from_numpy(self.reader.positions[self.sample])
        subjects = [self.reader.cases[case].subject for case in self.reader.case_of[self.sample]]
        retrieval = position_retrieval(centred, positions, subjects)
        if retrieval is not None:
            values |= {"retrieval_error": retrieval.error, "retrieval_chance": retrieval.chance}
        if self.reader.phases is not None:
            phases = torch.from_numpy(self.reader.phases[self.sample])
            retrieval = position_retrieval(centred, phases, subjects, cyclic=True)
            if retrieval is not None:
                values |= {"phase_error": retrieval.error, "phase_chance": retrieval.chance}
        return values

    def _features(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the middle of each slice and of two views, each (N, C) float64."""
        canvas, size = self.reader.canvas, self.views.size
        middle = slice((canvas - size) // 2, (canvas - size) // 2 + size)
        found: tuple[list[Tensor], ...] = ([], [], [])
        with frozen(self.encoder) as device:
            n_batch = batch_slices(canvas**2, device)
            for start in range(0, len(self.sample), n_batch):
                batch = self.reader.centred(self.sample[start : start + n_batch])
                images = batch.images.to(device).float()
                seed = stream(self.seed, "batch", start)
                inputs = (
                    images[..., middle, middle],
                    self.views(images, seed, view=0),
                    self.views(images, seed, view=1),
                )
                for images, kept in zip(inputs, found, strict=True):
                    kept.append(pooled_features(self.encoder, images).double().cpu())
        centred, first, second = (torch.cat(kept) for kept in found)
        return centred, first, second


def numbers(rows: Iterable[Mapping[str, str]]) -> list[dict[str, float]]:
    """Turn rows of metrics.csv into numbers. Empty cells are left out."""
    return [{name: float(text) for name, text in row.items() if text} for row in rows]
