"""Diagnostics of an encoder while it is trained: what its loss does not tell."""

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
"""One slice in so many is looked at, if that is fewer: to measure must cost less than to train."""
AT_LEAST = 16


def alignment(first: Tensor, second: Tensor) -> float:
    """How far two views of one slice are apart (Wang & Isola 2020, Sec. 4.1, with alpha = 2).

    The mean of ||f(x) - f(y)||^2 with f at unit length: 0 is the least, 4 the most.

    Args:
        first: (N, D), features of a view of each slice.
        second: (N, D), of another view of each.
    """
    return float((unit(first) - unit(second)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """How evenly slices are spread over the sphere (Wang & Isola 2020, Sec. 4.1, with t = 2).

    log of the mean over all pairs of exp(-2 ||f(x) - f(y)||^2) with f at unit length: 0 if all
    slices are one point, less the further they are spread.

    Args:
        features: (N, D), N > 1.
    """
    return float(torch.pdist(unit(features)).square().mul(-2).exp().mean().log())


def effective_rank(features: Tensor) -> float:
    """How many directions the features use (Roy & Vetterli 2007, Def. 1).

    exp of the entropy of the singular values divided by their sum. The features are not centred,
    as in RankMe (Garrido et al. 2023): all slices at one point is then rank 1, while what is left
    after centring is noise in all directions. 0 if all features are 0.

    Args:
        features: (N, D).
    """
    values = torch.linalg.svdvals(features)
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def sample_slices(reader: SliceReader, seed: int) -> np.ndarray:
    """Random slices of random subjects: of up to `SUBJECTS`, as many of each as there are or fit.

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

    Every method's encoder is measured alike: by what leaves its bottleneck, averaged over the
    picture, in evaluation mode, without a projection head. Training is not touched.

    Args:
        encoder: looked at whenever asked.
        reader: the slices of the training.
        views: of the training, for the alignment; all else is measured on the middle of the slices.
        seed: of the sample and the views.
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
        """Values for metrics.csv; what is not defined is left out."""
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
        return values

    def _features(self) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C) each, in double precision: of the middle of each slice and of two views."""
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
    """Rows of metrics.csv as numbers; what a row does not have is left out."""
    return [{name: float(text) for name, text in row.items() if text} for row in rows]
