"""What strategies choose by: features of all slices of a store's cases, and uncertainty."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from poscon.errors import PosconError
from poscon.models import FeatureExtractor, Model
from poscon.progress import progress_bar
from poscon.scan_preparation import ScanPreparer
from poscon.store.manifest import CaseRecord
from poscon.store.store import Store
from poscon.suggestion.disagreement import disagreement, trained_with_mirrors


def stacks(store: Store, cases: Sequence[CaseRecord], description: str) -> Iterator[torch.Tensor]:
    """(slices, channels, rows, columns) float32 of each case, with a progress bar."""
    with progress_bar() as progress:
        task = progress.add_task(description, total=len(cases), status="")
        for case in cases:
            yield torch.from_numpy(store.image(case).astype(np.float32))
            progress.advance(task)


def slice_features(
    store: Store, cases: Sequence[CaseRecord], encoder: FeatureExtractor
) -> np.ndarray:
    """(N, D) features of all slices of the cases, case after case."""
    return np.concatenate([encoder.features(s) for s in stacks(store, cases, "embedding")])


def slice_uncertainty(
    store: Store, cases: Sequence[CaseRecord], model: Model, seed: int
) -> np.ndarray:
    """(N,) disagreement of a model's predictions for all slices of the cases, case after case."""
    mirrored, images = trained_with_mirrors(model), stacks(store, cases, "predicting")
    return np.concatenate([disagreement(model, s, seed, mirrored=mirrored) for s in images])


def check_fits(store: Store, trained: ScanPreparer, run: str) -> None:
    """Refuse a network that takes other image channels than a store has.

    Raises:
        PosconError: it does.
    """
    if len(trained.channels) != store.channels:
        raise PosconError(
            f"{store.path}: has {store.channels} image channel(s), the network of {run} takes "
            f"{len(trained.channels)}; choose another store or another run"
        )
    difference = trained.channel_difference(store.manifest.channels)
    if difference is not None:
        raise PosconError(f"{store.path}: {difference.text}; choose another store than for {run}")
