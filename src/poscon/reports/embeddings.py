"""The features of the slices of a few volumes: their similarity, and a map of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace

from poscon.errors import PosconError
from poscon.models import load_encoder
from poscon.positions import POSITIONS
from poscon.pretext.contrast import unit
from poscon.store.manifest import CaseRecord
from poscon.store.placing import place_cases
from poscon.store.store import Store
from poscon.training.data import SliceReader
from poscon.training.inference import batch_slices
from poscon.training.probes import frozen, pooled_features
from poscon.training.run import RunFolder

SUBJECTS = 12


@dataclass(frozen=True)
class Embeddings:
    """Features of N slices, ordered by position.

    Attributes:
        positions: (N,), position of each slice, of the kind that the pre-training went by. Volumes
            of a store that is not aligned are placed on an axis of their own, or if that cannot be
            done, their positions are relative.
        limits: the lowest and the highest position.
        in_unit: see :attr:`poscon.positions.PositionKind.in_unit`.
        similarity: (N, N), cosine of the centred features: 1 is equal, -1 is opposite.
        plane: (N, 2), the first two principal components of the features at unit length.
        explained: share of the variance of the features in that plane, 0 to 1.
    """

    positions: np.ndarray
    limits: tuple[float, float]
    in_unit: str
    similarity: np.ndarray
    plane: np.ndarray
    explained: float


def embed(run: Path, store: Store, cases: Sequence[CaseRecord], size: int) -> Embeddings:
    """Compute the features of all slices of some cases, one case per subject.

    Args:
        run: folder of a pre-training.
        store: store that holds the slices.
        cases: cases to choose from: the first case of each of up to `SUBJECTS` subjects is taken.
        size: pixels per side of the window at the middle of each slice that the encoder sees.
    """
    encoder = load_encoder(run, "cpu").encoder
    firsts = {case.subject: case for case in reversed(cases)}
    chosen = [firsts[subject] for subject in sorted(firsts)[:SUBJECTS]]
    settings = RunFolder(run).read_config()["settings"]
    position = settings.get("position", "relative")  # earlier versions had no other
    if position == "learned" and any(case.axis is None for case in chosen):
        try:
            axis = place_cases(store, chosen, settings["seed"]).axis
        except PosconError:  # too few, or too alike
            position = "relative"
        else:
            chosen = [replace(case, axis=axis[case.id]) for case in chosen]
    reader = SliceReader(store, chosen, size, encoder.settings.context, position)
    order = np.argsort(reader.positions, kind="stable")
    with frozen(encoder) as device:
        n_batch = batch_slices(size**2, device)
        features = torch.cat(
            [
                pooled_features(encoder, reader.centred(order[i : i + n_batch]).images.float())
                for i in range(0, len(order), n_batch)
            ]
        ).double()
    z = unit(features)
    centred = z - z.mean(dim=0)
    alike = unit(centred)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    total = float(values.square().sum())
    return Embeddings(
        positions=reader.positions[order],
        limits=reader.limits,
        in_unit=POSITIONS[position].in_unit,
        similarity=(alike @ alike.T).numpy(),
        plane=(left * values)[:, :2].numpy(),
        explained=float(values[:2].square().sum()) / total if total else 0.0,
    )
